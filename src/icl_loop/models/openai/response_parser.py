"""Parses chat completions.

Only the text of a reply must be sound: whatever else a response contains is read if it has a known
shape, and ignored otherwise.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from icl_loop.core.messages import Finish, Reply, Served, Usage, without_surrogates
from icl_loop.models.openai.label_logprobs import label_logprobs
from icl_loop.models.openai.usage_parser import parse_usage
from icl_loop.tasks.answers import AnswerParser

Meaning = Literal[Finish, "tool_call", "failed"]
"""What a finish reason means: `Finish`, a call of a tool, or a failure of the provider."""
FINISH_REASONS: Mapping[Meaning, str] = {
    "stop": """
        stop stopped stop_token stop_sequence eos eos_token eos_found end end_turn end_of_turn
        end_of_text complete completed done finish finished none null""",
    "length": """
        length max_length model_length length_limit context_length context_length_exceeded
        context_window_exceeded model_context_window_exceeded max_tokens max_tokens_reached
        max_new_tokens max_output_tokens max_completion_tokens token_limit token_limit_reached
        output_limit limit time_limit truncated incomplete error_limit""",
    "content_filter": """
        content_filter content_filtered content_filtering content_policy content_policy_violation
        content_moderation filter filtered moderation blocked blocklist safety safety_block
        image_safety image_prohibited_content image_recitation recitation prohibited_content spii
        refusal refused sensitive risk language model_armor guardrail guardrails
        guardrail_intervened data_inspection_failed violation error_toxic""",
    "tool_call": "tool_call tool_calls tool_use function_call function_calls",
    "failed": """
        error errored abort aborted cancel cancelled canceled user_cancel fail failed failure fault
        crash interrupted timeout unavailable service_unavailable overloaded engine_overloaded
        insufficient_system_resource insufficient_system_resources load unload
        unexpected_tool_call too_many_tool_calls""",
}
"""The finish reasons of providers by meaning, besides `malformed_...` and `..._error`, which failed."""
_MEANINGS = {name: meaning for meaning, names in FINISH_REASONS.items() for name in names.split()}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
"""Fields of a message that hold reasoning; the first one that is not empty is used."""
_TEXTS = ("text", "thinking", "summary", "reasoning", "content")
"""Fields of a part of a message that hold its text."""
_MAX_NAME = 200
"""Longer names of models, backends and finish reasons are cut."""


class InvalidResponse(ValueError):
    """A successful response without a usable completion.

    Attributes:
        usage: The tokens that it reports nevertheless.
    """

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage or Usage()


def parse_completion(content: bytes, labels: Sequence[str], parse: AnswerParser) -> Reply:
    """Return the reply in a response body, with the log probabilities of `labels` if there are any.

    `parse` finds the answer among its tokens. Token counts that are not reported become 0.

    Raises:
        InvalidResponse: The body contains no completion, an empty one without a reason, or one that
            the endpoint reports as failed.
    """
    body = _decoded(content)
    usage = parse_usage(body)
    match body.get("choices"):
        case [dict(choice), *_]:
            message = _table(choice.get("message"))
        case _:
            raise InvalidResponse("did not return a chat completion: it has no choices", usage)
    meaning, reason = _meaning(choice.get("finish_reason"))
    if meaning == "failed" or choice.get("error"):
        raise InvalidResponse(f"failed to complete the reply: {_failure(choice, reason)}", usage)
    text, reasoning = _text(message.get("content", choice.get("text")), usage), _reasoning(message)
    finish: Finish = "stop" if meaning == "tool_call" else meaning
    if not (text or "").strip():
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal:
            text, finish = refusal, "content_filter"
        elif message.get("tool_calls") or message.get("function_call") or meaning == "tool_call":
            finish, reason = "unknown", reason if meaning == "tool_call" else "tool_calls"
        elif finish not in ("length", "content_filter") and not (
            reasoning or (text is not None and usage.completion)
        ):
            raise InvalidResponse("returned an empty completion", usage)
    text = without_surrogates(text or "")
    served = Served(
        _name(body.get("model")),
        _name(body.get("system_fingerprint")),
        _name(reason) if finish == "unknown" else None,
    )
    return Reply(
        text,
        usage=usage,
        finish=finish,
        served=served,
        label_logprobs=label_logprobs(choice.get("logprobs"), text, finish, labels, parse),
        reasoning_text=reasoning or None,
    )


def _decoded(content: bytes) -> Mapping[str, Any]:
    """Return the JSON object in a body; bytes that are not text and control characters are allowed."""
    if not content.strip():
        raise InvalidResponse("returned an empty body")
    text = content.decode(json.detect_encoding(content), "replace")
    try:
        try:
            body = json.loads(text, strict=False)
        except ValueError:  # also raised for integers of more than 4,300 digits
            body = json.loads(text, strict=False, parse_int=float)
    except (ValueError, RecursionError):
        raise InvalidResponse(
            "did not return a chat completion: the body is not valid JSON"
        ) from None
    if not isinstance(body, dict):
        raise InvalidResponse("did not return a chat completion: the body is not a JSON object")
    return body


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: object) -> str | None:
    """Return a name that the endpoint reports, if it is a text."""
    return without_surrogates(value[:_MAX_NAME]) if isinstance(value, str) else None


def _meaning(reason: object) -> tuple[Meaning, str | None]:
    """Return the meaning of a finish reason, and the reason as a text."""
    if isinstance(reason, dict):  # SGLang
        reason = reason.get("type")
    if reason is None or reason == "":
        return "stop", None
    said = str(reason)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", said.rpartition(".")[2].strip())
    name = re.sub(r"[\W_]+", "_", words).casefold().removeprefix("finish_reason_")
    if name.startswith("malformed") or name.endswith("_error"):
        return "failed", said
    return _MEANINGS.get(name, "unknown"), said


def _failure(choice: Mapping[str, Any], reason: str | None) -> str:
    """Return what the endpoint says about a reply that failed."""
    error = choice.get("error")
    message = _table(error).get("message") or (error if isinstance(error, str) else None)
    said = f"finish_reason {reason!r}" + (f", {message}" if message else "")
    return " ".join(said.split())[:300]


def _text(content: object, usage: Usage) -> str | None:
    """Return the text of a message, without its thoughts; None if the message has no content."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, str | dict) for part in parts):
        raise InvalidResponse("returned a message whose content is not text", usage)
    return "".join(_joined(part) for part in parts if not _is_thought(part))


def _reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning that a message holds beside its text."""
    for name in _THOUGHTS:
        if (found := _joined(message.get(name))).strip():
            return found
    parts = message.get("content")
    return _joined([part for part in parts if _is_thought(part)] if isinstance(parts, list) else [])


def _is_thought(part: object) -> bool:
    return "think" in (kind := str(_table(part).get("type"))) or "reason" in kind


def _joined(value: object) -> str:
    """Return the text in a text, in a part of a message, or in a list of these."""
    if isinstance(value, list):
        return "".join(map(_joined, value))
    if isinstance(value, dict):
        value = next((value[name] for name in _TEXTS if value.get(name)), "")
        return _joined(value)
    return value if isinstance(value, str) else ""
