"""Everything that an arm and an experiment are set to, table by table."""

from typing import Annotated, Any, Self, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Usage
from icl_loop.core.tokens import ESTIMATORS, counter_for, token_counter
from icl_loop.experiment.validators import (
    as_address,
    as_file_name,
    as_policy,
    as_variable,
    checked_by,
    no_secret_headers,
    no_secrets,
    one_of,
)
from icl_loop.models import AnswerFormat, check_params, is_built_in
from icl_loop.tasks.answers import AnswerRule, AnswerRuleName
from icl_loop.tasks.encodings import ENCODINGS
from icl_loop.tasks.feedback import FEEDBACK_KINDS, YOKED, FeedbackPolicy, Only
from icl_loop.tasks.labels import LABEL_MAPS
from icl_loop.tasks.prompts import DEFAULT, open_prompt_set
from icl_loop.tasks.task import Replies
from icl_loop.tasks.transforms import TRANSFORMS

AUTO = "auto"
MOST = 1_000_000
"""The most turns of a session, and the most streams; more is a slip of the pen."""
FileName = Annotated[str, AfterValidator(as_file_name)]
Variable = Annotated[str, AfterValidator(as_variable)]
"""Name of an environment variable."""


class _Table(BaseModel):
    """A table of settings; keys that are not known are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TaskSettings(_Table):
    """What is asked."""

    dataset: str = "digits"
    encoding: Annotated[str, one_of(ENCODINGS)] = "grid"
    size: int = Field(default=20, ge=1, le=256)
    labels: Annotated[str, one_of(LABEL_MAPS)] = "native"
    pixels: Annotated[str, one_of(TRANSFORMS)] = "identity"
    prompts: Annotated[str, checked_by(open_prompt_set)] = DEFAULT
    swap_at: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _prompts_describe_the_encoding(self) -> Self:
        try:
            open_prompt_set(self.prompts).section_for(self.encoding)
        except InputError as error:
            raise ValueError(
                f"prompts = {self.prompts!r} with data set {self.dataset!r}: {error}"
            ) from None
        return self


class ModelSettings(_Table):
    """Who answers."""

    name: Annotated[str, Field(min_length=1)] = "reference/nearest"
    context_window: int = Field(default=32_768, ge=1)
    base_url: Annotated[str | None, AfterValidator(as_address)] = None
    api_key_env: Variable | None = None
    organization: str | None = None
    headers: Annotated[dict[str, str], AfterValidator(no_secret_headers)] = {}
    headers_env: dict[str, Variable] = {}
    params: Annotated[dict[str, Any], AfterValidator(no_secrets)] = {}
    merge_roles: bool = True
    answer_format: Annotated[str, one_of(get_args(AnswerFormat))] = "text"

    @model_validator(mode="after")
    def _known(self) -> Self:
        try:
            is_built_in(self.name, self.base_url)
        except InputError as error:
            raise ValueError(f"name: {error}") from None
        return self

    @model_validator(mode="after")
    def _takes_its_params(self) -> Self:
        try:
            if is_built_in(self.name, self.base_url):
                check_params(self.name, self.params)
        except InputError as error:
            raise ValueError(f"params: {error}") from None
        return self


class ContextSettings(_Table):
    """What is shown of the past."""

    policy: Annotated[str, AfterValidator(as_policy)] = "block"
    reserve: int = Field(default=1_024, ge=0)
    counter: Annotated[str, checked_by(lambda name: name == AUTO or token_counter(name))] = AUTO
    replies: Annotated[str, one_of(get_args(Replies))] = "full"


class FeedbackSettings(_Table):
    """What is told; see `feedback.FeedbackPolicy`.

    Attributes:
        kind: Of verdict.
        donor: The arm whose sessions, of other streams, are the donors of a yoked arm.
        noise: Probability that a verdict is told as its opposite.
        delay: Turns by which verdicts come late.
        only: Which verdicts are told.
    """

    kind: Annotated[str, one_of(FEEDBACK_KINDS)] = "correctness"
    donor: str | None = None
    noise: float = Field(default=0.0, ge=0, le=1)
    delay: int = Field(default=0, ge=0)
    only: Annotated[str, one_of(get_args(Only))] = "both"

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.kind == YOKED) != (self.donor is not None):
            raise ValueError("a yoked arm, and no other, names the arm of its donors in donor")
        try:
            self.telling()
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    def telling(self, donor: tuple[str, ...] | None = None) -> FeedbackPolicy:
        """Return what a session is told, given what its donor was told."""
        only = cast("Only", self.only)
        return FeedbackPolicy(self.kind, self.noise, self.delay, only, donor)


class ProbeSettings(_Table):
    """Held-out samples, asked in forks of the session and never appended.

    Attributes:
        at: After how many turns they are asked.
        count: How many; the same ones each time.
    """

    at: list[Annotated[int, Field(ge=0)]] = []
    count: int = Field(default=20, ge=1)


class AnswerSettings(_Table):
    """How replies are read.

    Attributes:
        rule: As it is stated, strictly by the form of the last line, or the last label named.
        labels: Other names that are accepted for labels.
    """

    rule: Annotated[str, one_of(get_args(AnswerRuleName))] = "stated"
    labels: dict[str, list[str]] = {}

    def as_rule(self) -> AnswerRule:
        """Return the rule by which replies are read."""
        names = tuple((name, label) for label, names in self.labels.items() for name in names)
        return AnswerRule(cast("AnswerRuleName", self.rule), names)


class Settings(_Table):
    """Everything that one arm is set to."""

    task: TaskSettings = TaskSettings()
    model: ModelSettings = ModelSettings()
    context: ContextSettings = ContextSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    probes: ProbeSettings = ProbeSettings()
    answers: AnswerSettings = AnswerSettings()

    def recorded(self) -> dict[str, Any]:
        """Return the settings as a transcript states them; those of answers if not as ever."""
        unsaid = {"answers"} if self.answers == AnswerSettings() else set()
        return self.model_dump(mode="json", exclude=unsaid)


class LimitSettings(_Table):
    """How an endpoint is asked; none of it changes what is asked or answered.

    Attributes:
        requests_per_minute: Most requests a minute, to each endpoint.
        tokens_per_minute: Most prompt tokens a minute, to each endpoint.
        timeout_s: Seconds to wait for one reply.
        allowance_s: Seconds that all attempts at one turn may take together.
    """

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout_s: float = Field(default=600.0, gt=0)
    allowance_s: float = Field(default=600.0, gt=0)


class PriceSettings(_Table):
    """US dollars for a million tokens.

    Attributes:
        input: Of the prompt.
        output: Of the reply.
        cached: Of the prompt, where the provider's cache served it; `input` if None.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)

    def __call__(self, usage: Usage) -> float:
        """Return the US dollars of these tokens."""
        cached = self.input if self.cached is None else self.cached
        fresh = usage.prompt - usage.cached
        return (fresh * self.input + usage.cached * cached + usage.completion * self.output) / 1e6


class AnalysisSettings(_Table):
    """What is looked at first.

    Attributes:
        effect: Difference in late accuracy that the experiment should be able to show.
    """

    primary: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    margin: float = Field(default=0.05, gt=0, lt=1)
    window: int = Field(default=20, ge=1)
    effect: float | None = Field(default=None, gt=0, le=1)


class ExperimentFile(_Table):
    """The top level of an experiment file; arms are laid over its tables before they are read."""

    name: FileName
    turns: int = Field(default=200, ge=1, le=MOST)
    streams: int = Field(default=8, ge=1, le=MOST)
    seed: int = Field(default=0, ge=0)
    task: dict[str, Any] = {}
    model: dict[str, Any] = {}
    context: dict[str, Any] = {}
    feedback: dict[str, Any] = {}
    probes: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    arms: list[dict[str, Any]] = [{"name": "feedback"}]
    analysis: AnalysisSettings = AnalysisSettings()
    limits: LimitSettings = LimitSettings()
    price: PriceSettings | None = None


def resolved(settings: Settings) -> Settings:
    """Return the settings with the token counter that `auto` stands for on this machine."""
    if settings.context.counter != AUTO:
        return settings
    model = settings.model
    built_in = is_built_in(model.name, model.base_url)
    counter = ESTIMATORS["o200k_base"] if built_in else counter_for(model.name)
    context = settings.context.model_copy(update={"counter": counter.name})
    return settings.model_copy(update={"context": context})


def check_turns(place: str, settings: Settings, turns: int) -> None:
    """Raise InputError if something is to happen after the session is over."""
    swap = settings.task.swap_at
    if swap is not None and swap >= turns:
        raise InputError(f"{place}, task.swap_at = {swap}: the session has {turns} turns")
    for after in settings.probes.at:
        if after > turns:
            raise InputError(f"{place}, probes.at = {after}: the session has {turns} turns")
