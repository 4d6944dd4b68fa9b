"""Completions in the two shapes that they take on the wire, whole and streamed."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icl_loop.core.messages import Reply
from icl_loop.tasks.answers import parse_answer

_json = json.JSONEncoder(separators=(",", ":")).encode
_WORD = re.compile(r"\S+\s*|\s+")
_IMPROBABLE = -9999.0
"""What OpenAI states for a log probability that is minus infinity or out of sight."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is answered to one request, in the two shapes it may take on the wire."""

    id: str
    model: str
    text: str
    finish: str
    refused: bool
    tokens: Sequence[Mapping[str, Any]] | None
    usage: Mapping[str, Any]

    def whole(self) -> bytes:
        """Return the body of an answer that is not streamed."""
        said, refusal = (None, self.text) if self.refused else (self.text, None)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": said, "refusal": refusal},
            "logprobs": self._logprobs(self.tokens),
            "finish_reason": self.finish,
        }
        body = {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}
        return _json(body).encode()

    def events(self, *, usage: bool) -> list[bytes]:
        """Return the events of a streamed answer, stating the usage in the last if asked to."""
        deltas: list[tuple[Mapping[str, Any], object, str | None]] = [
            ({"role": "assistant", "content": "", "refusal": None}, None, None)
        ]
        kind = "refusal" if self.refused else "content"
        if self.tokens is None:
            deltas += [({kind: word}, None, None) for word in _WORD.findall(self.text)]
        else:
            deltas += [({kind: t["token"]}, self._logprobs([t]), None) for t in self.tokens]
        deltas.append(({}, None, self.finish))
        head = self._head("chat.completion.chunk") | ({"usage": None} if usage else {})
        chunks = [
            {
                **head,
                "choices": [
                    {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
                ],
            }
            for delta, logprobs, finish in deltas
        ]
        if usage:
            chunks.append({**head, "choices": [], "usage": self.usage})
        return [f"data: {each}\n\n".encode() for each in (*map(_json, chunks), "[DONE]")]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_icl_loop",
        }

    @staticmethod
    def _logprobs(tokens: object) -> Mapping[str, Any] | None:
        return None if tokens is None else {"content": tokens, "refusal": None}


def chosen(reply: Reply, choice: tuple[str, tuple[str, ...]] | None) -> tuple[str, bool]:
    """Return what is said, and whether it is a refusal: of a schema that the reply cannot fill."""
    if choice is None or reply.finish != "stop":
        return reply.text, False
    name, labels = choice
    answer = parse_answer(reply.text, labels).answer
    if answer is None:
        return reply.text, True
    return json.dumps({name: answer}, ensure_ascii=False), False


def label_tokens(text: str, logprobs: Mapping[str, float], top: int) -> list[dict[str, Any]] | None:
    """Return the label named last in `text` as a token among its alternatives, the rest as certain.

    The tokens joined are `text`. There are none if it names no label.
    """
    named = [label for label in logprobs if label and label in text]
    if not named:
        return None
    label = max(named, key=lambda each: (text.rfind(each) + len(each), len(each)))
    before, _, after = text.rpartition(label)
    ranked = sorted(logprobs.items(), key=lambda item: -item[1])[:top]
    tokens = [
        _token(before, 0.0) | {"top_logprobs": []},
        _token(label, logprobs[label]) | {"top_logprobs": [_token(*each) for each in ranked]},
        _token(after, 0.0) | {"top_logprobs": []},
    ]
    return [token for token in tokens if token["token"]]


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": max(logprob, _IMPROBABLE),
        "bytes": list(text.encode()),
    }
