"""Parses chat completions and lists of models, ignoring fields that are not used."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from icl_loop.core.messages import Finish, Reply, Served, Usage
from icl_loop.core.validation_messages import first_problem

FINISH_REASONS: Mapping[str | None, Finish] = {
    "length": "length",
    "content_filter": "content_filter",
}
"""Finish reasons that a reply keeps; any other means "stop"."""


class InvalidResponse(ValueError):
    """A successful response without a usable completion."""


class _Object(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _TokenDetails(_Object):
    cached_tokens: NonNegativeInt | None = None
    reasoning_tokens: NonNegativeInt | None = None


class _Usage(_Object):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None
    prompt_tokens_details: _TokenDetails | None = None
    completion_tokens_details: _TokenDetails | None = None


class _TopLogprob(_Object):
    token: str
    logprob: float


class _TokenLogprob(_TopLogprob):
    top_logprobs: list[_TopLogprob] = []


class _Logprobs(_Object):
    content: list[_TokenLogprob] | None = None


class _TextPart(_Object):
    text: str = ""


class _Message(_Object):
    content: str | list[_TextPart] | None = None
    refusal: str | None = None


class _Choice(_Object):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completion(_Object):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _Usage | None = None


class _Model(_Object):
    id: str


class _ModelList(_Object):
    data: list[_Model]


def parse_completion(content: bytes, labels: Sequence[str]) -> Reply:
    """Return the reply in a response body, with the log probabilities of `labels` if there are any.

    Raises:
        InvalidResponse: The body contains no completion, or an empty one without a reason.
    """
    if not content.strip():
        raise InvalidResponse("returned an empty body")
    try:
        completion = _Completion.model_validate_json(content)
    except ValidationError as error:
        raise InvalidResponse(f"did not return a chat completion: {first_problem(error)}") from None
    choice = completion.choices[0]
    text, finish = _text_and_finish(choice)
    return Reply(
        text,
        usage=_parse_usage(completion.usage or _Usage()),
        finish=finish,
        served=Served(completion.model, completion.system_fingerprint),
        label_logprobs=_label_logprobs(choice.logprobs, labels) if labels else None,
    )


def parse_model_names(content: bytes) -> list[str]:
    """Return the names in a list of models; raises ValueError if the body contains no list."""
    return [model.id for model in _ModelList.model_validate_json(content).data]


def _text_and_finish(choice: _Choice) -> tuple[str, Finish]:
    content, refusal = choice.message.content, choice.message.refusal
    finish = FINISH_REASONS.get(choice.finish_reason, "stop")
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if content is not None:
        return content, finish
    if refusal is not None:
        return refusal, "content_filter"
    if finish == "stop":
        raise InvalidResponse("returned an empty completion")
    return "", finish


def _parse_usage(usage: _Usage) -> Usage:
    """Return the reported token counts; a count that is missing becomes 0."""
    prompt = usage.prompt_tokens_details or _TokenDetails()
    completion = usage.completion_tokens_details or _TokenDetails()
    return Usage(
        prompt=usage.prompt_tokens or 0,
        cached=prompt.cached_tokens or 0,
        completion=usage.completion_tokens or 0,
        reasoning=completion.reasoning_tokens or 0,
    )


def _label_logprobs(
    logprobs: _Logprobs | None, labels: Sequence[str]
) -> Mapping[str, float] | None:
    """Return the log probability of each label at the last token that is a label."""
    names = set(labels)
    for token in reversed((logprobs and logprobs.content) or []):
        if token.token.strip() in names:
            found: dict[str, float] = {}
            for each in (*token.top_logprobs, token):
                name = each.token.strip()
                if name in names:
                    found[name] = max(each.logprob, found.get(name, each.logprob))
            return {label: found[label] for label in labels if label in found}
    return None
