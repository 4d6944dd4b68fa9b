"""Parses chat completions and lists of models, ignoring fields that are not used."""

from collections.abc import Mapping, Sequence

from pydantic import AliasPath, BaseModel, Field, NonNegativeInt, ValidationError

from icl_loop.core.messages import Finish, Reply, Served, Usage
from icl_loop.core.validation_messages import first_problem

FINISH_REASONS: Mapping[str | None, Finish] = {
    "length": "length",
    "content_filter": "content_filter",
}
"""Finish reasons that a reply keeps; any other means "stop"."""


class InvalidResponse(ValueError):
    """A successful response without a usable completion."""


class _Usage(BaseModel):
    prompt: NonNegativeInt | None = Field(None, alias="prompt_tokens")
    completion: NonNegativeInt | None = Field(None, alias="completion_tokens")
    cached: NonNegativeInt | None = Field(
        None, validation_alias=AliasPath("prompt_tokens_details", "cached_tokens")
    )
    reasoning: NonNegativeInt | None = Field(
        None, validation_alias=AliasPath("completion_tokens_details", "reasoning_tokens")
    )


class _Token(BaseModel):
    token: str
    logprob: float
    top_logprobs: list["_Token"] = []


class _TextPart(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_TextPart] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    tokens: list[_Token] | None = Field(None, validation_alias=AliasPath("logprobs", "content"))


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Model]


def parse_completion(content: bytes, labels: Sequence[str]) -> Reply:
    """Return the reply in a response body, with the log probabilities of `labels` if there are any.

    Token counts that the endpoint does not report become 0.

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
        usage=Usage(**{name: count or 0 for name, count in completion.usage or ()}),
        finish=finish,
        served=Served(completion.model, completion.system_fingerprint),
        label_logprobs=_label_logprobs(choice.tokens or [], labels),
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


def _label_logprobs(tokens: Sequence[_Token], labels: Sequence[str]) -> Mapping[str, float] | None:
    """Return the log probability of each label at the last token that is a label."""
    last = next((each for each in reversed(tokens) if each.token.strip() in labels), None)
    if last is None:
        return None
    found: dict[str, float] = {}
    for each in (last, *last.top_logprobs):
        name = each.token.strip()
        found[name] = max(each.logprob, found.get(name, each.logprob))
    return {label: found[label] for label in labels if label in found}
