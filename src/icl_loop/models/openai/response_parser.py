"""From the completion that an endpoint sends to a reply."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from icl_loop.core.messages import Finish, Reply, Served, Usage

FINISHES: Mapping[str | None, Finish] = {"length": "length", "content_filter": "content_filter"}


class SaidNothing(Exception):
    """A completion without content that gives no reason for having none."""


class _Field(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Details(_Field):
    cached_tokens: NonNegativeInt | None = None
    reasoning_tokens: NonNegativeInt | None = None


class _UsageFields(_Field):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _TopLogprob(_Field):
    token: str
    logprob: float


class _TokenLogprob(_TopLogprob):
    top_logprobs: list[_TopLogprob] = []


class _Logprobs(_Field):
    content: list[_TokenLogprob] | None = None


class _Part(_Field):
    text: str = ""


class _Said(_Field):
    content: str | list[_Part] | None = None
    refusal: str | None = None

    @property
    def text(self) -> str | None:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content


class _Choice(_Field):
    message: _Said
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class Completion(_Field):
    """The fields of a chat completion that are used; endpoints leave out or add others."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _UsageFields | None = None

    def reply(self, labels: Sequence[str]) -> Reply:
        """Return what is said here; raises `SaidNothing` if nothing is, for no stated reason."""
        choice = self.choices[0]
        text, refusal = choice.message.text, choice.message.refusal
        finish = FINISHES.get(choice.finish_reason, "stop")
        if text is None:
            if refusal is None and finish == "stop":
                raise SaidNothing
            finish = "content_filter" if refusal is not None else finish
        return Reply(
            text if text is not None else refusal or "",
            usage=_usage(self.usage),
            finish=finish,
            served=Served(self.model, self.system_fingerprint),
            label_logprobs=_label_logprobs(choice.logprobs, labels) if labels else None,
        )


def _usage(usage: _UsageFields | None) -> Usage:
    """Return the counts that the endpoint states; what it leaves out counts as 0."""
    if usage is None:
        return Usage()
    prompt = usage.prompt_tokens_details or _Details()
    completion = usage.completion_tokens_details or _Details()
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
