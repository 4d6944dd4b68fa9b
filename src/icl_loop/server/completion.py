"""A chat completion as a JSON body or as a stream of events."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_loop.core.messages import Finish, Reply, Usage
from icl_loop.server.request_parser import Choice
from icl_loop.tasks.answers import parse_answer

_encode = json.JSONEncoder(separators=(",", ":")).encode
_WORD = re.compile(r"\S+\s*|\s+")
_MIN_LOGPROB = -9999.0
"""What OpenAI returns for a probability of zero."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply with everything that OpenAI's completions contain.

    If `is_refusal`, the text is sent as a refusal rather than as content. `tokens` are the result of
    `label_tokens`. `usage.completion` does not include the reasoning.
    """

    id: str
    model: str
    text: str
    finish: Finish
    is_refusal: bool
    tokens: Sequence[Mapping[str, Any]] | None
    usage: Usage

    def body(self) -> bytes:
        """Return the body of a response that is not streamed."""
        content, refusal = (None, self.text) if self.is_refusal else (self.text, None)
        message = {"role": "assistant", "content": content, "refusal": refusal}
        logprobs = _logprobs(self.tokens)
        choice = {"index": 0, "message": message, **logprobs, "finish_reason": self.finish}
        body = {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}
        return _encode(body).encode()

    def events(self, *, include_usage: bool | None) -> bytes:
        """Return the server-sent events of a streamed response; all are known at once."""
        head = self._head("chat.completion.chunk") | ({"usage": None} if include_usage else {})
        kind = "refusal" if self.is_refusal else "content"
        tokens = self.tokens or [{"token": word} for word in _WORD.findall(self.text)]
        choices = [
            {"index": 0, "delta": delta, **_logprobs(known), "finish_reason": finish}
            for delta, known, finish in (
                ({"role": "assistant", "content": "", "refusal": None}, None, None),
                *(({kind: each["token"]}, self.tokens and [each], None) for each in tokens),
                ({}, None, self.finish),
            )
        ]
        chunks = [{**head, "choices": [choice]} for choice in choices]
        if include_usage:
            chunks.append({**head, "choices": [], "usage": self._usage()})
        return "".join(f"data: {each}\n\n" for each in (*map(_encode, chunks), "[DONE]")).encode()

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "system_fingerprint": "fp_icl_loop",
        }

    def _usage(self) -> dict[str, Any]:
        completion = self.usage.completion + self.usage.reasoning
        return {
            "prompt_tokens": self.usage.prompt,
            "completion_tokens": completion,
            "total_tokens": self.usage.prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.usage.cached},
            "completion_tokens_details": {"reasoning_tokens": self.usage.reasoning},
        }


def _logprobs(tokens: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    return {"logprobs": None if tokens is None else {"content": tokens, "refusal": None}}


def apply_schema(reply: Reply, choice: Choice | None) -> tuple[str, bool]:
    """Return the text of a reply as JSON if a schema asks for it, and whether it is a refusal.

    A reply without an answer that the schema allows becomes a refusal.
    """
    if choice is None or reply.finish != "stop":
        return reply.text, False
    answer = parse_answer(reply.text, choice.values).answer
    if answer is None:
        return reply.text, True
    return json.dumps({choice.name: answer}, ensure_ascii=False), False


def label_tokens(text: str, logprobs: Mapping[str, float], top: int) -> list[dict[str, Any]] | None:
    """Split `text` at its last label; that token lists the log probabilities of the `top` labels.

    Return tokens whose concatenation is `text`, or None if it contains no label.
    """
    present = [label for label in logprobs if label and label in text]
    if not present:
        return None
    label = max(present, key=lambda each: (text.rfind(each) + len(each), len(each)))
    before, _, after = text.rpartition(label)
    ranked = sorted(logprobs.items(), key=lambda item: -item[1])[:top]
    tokens = [
        _token(before, 0.0) | {"top_logprobs": []},
        _token(label, logprobs[label]) | {"top_logprobs": [_token(*each) for each in ranked]},
        _token(after, 0.0) | {"top_logprobs": []},
    ]
    return [token for token in tokens if token["token"]]


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, _MIN_LOGPROB), "bytes": list(text.encode())}
