"""The settings of an experiment, table by table.

The text below each key is its entry in the reference of settings.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, model_validator

from icl_loop.context.policy_parser import context_policy
from icl_loop.core.errors import InputError
from icl_loop.core.records import Verdicts
from icl_loop.core.tokens import ESTIMATORS, counter_for, token_counter
from icl_loop.experiment.annealing_settings import AnnealingSettings
from icl_loop.experiment.answer_settings import AnswerSettings
from icl_loop.experiment.choice_settings import ChoiceSettings
from icl_loop.experiment.feedback_settings import FeedbackSettings
from icl_loop.experiment.run_settings import LimitSettings, PriceSettings
from icl_loop.experiment.validation import (
    SENSITIVE_HEADERS,
    SENSITIVE_PARAMS,
    STRICT,
    checked_by,
    file_name,
    matching,
    one_of,
    tokens_or_auto,
    told_first,
    translated_errors,
    web_address,
    without_secrets,
)
from icl_loop.models import AnswerFormat, check_params, is_built_in
from icl_loop.tasks.answers import AnswerRule
from icl_loop.tasks.datasets import Draw, Order, modality_of
from icl_loop.tasks.encodings import ENCODINGS, encodings_for
from icl_loop.tasks.labels import LABEL_MAPS
from icl_loop.tasks.prompts import DEFAULT, open_prompt_set
from icl_loop.tasks.task import Replies
from icl_loop.tasks.transforms import TRANSFORMS

AUTO = "auto"
WINDOW = 32_768
"""Context window in tokens if none is set or if the model is built in."""
MAX_COUNT = 1_000_000
"""Most turns and most streams; a larger number is a typing error."""
MAX_REPEATS = 1_000
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
FileName = Annotated[str, file_name("._-", "dots, underscores and hyphens")]
ArmName = TypeAdapter(
    Annotated[str, file_name("._=-", "dots, underscores, hyphens and equals signs")]
)
VariableName = Annotated[
    str,
    matching(
        r"[A-Z_][A-Z0-9_]{0,99}",
        "must be the name of an environment variable: capital letters, digits and underscores",
    ),
]
HeaderName = Annotated[
    str,
    matching(
        r"(?!(?i:host|connection|content-length|transfer-encoding)$)[A-Za-z0-9_-]{1,100}",
        "must be the name of a header: letters, digits, hyphens and underscores; and not one that the"
        " connection sets, such as Host",
    ),
]
HeaderValue = Annotated[
    str, matching(r"[\t\x20-\x7e\xa0-\xff]*", "must not contain line breaks or other controls")
]


class _Table(BaseModel):
    """A table of settings."""

    model_config = STRICT


class TaskSettings(_Table):
    """`[task]`: what the model is asked."""

    dataset: str = "digits"
    """Data set: a built-in name such as digits, mnist:test or iris, or csv:FILE or folder:PATH."""
    encoding: Annotated[str, one_of(ENCODINGS)] = "grid"
    """How a sample is shown: an encoding; if omitted, grid for images, else the only one that fits."""
    size: int = Field(default=20, ge=1, le=256)
    """Side in pixels to which images are resized."""
    labels: Annotated[str, one_of(LABEL_MAPS)] = "native"
    """Names of the classes: native, abstract (unrelated words) or deranged (names exchanged)."""
    pixels: Annotated[str, one_of(TRANSFORMS)] = "identity"
    """Transform of the pixels of every image: identity, permuted or projected."""
    prompts: Annotated[str, checked_by(open_prompt_set)] = DEFAULT
    """Prompt set: a shipped name or the path of a TOML file."""
    swap_at: int | None = Field(default=None, ge=1)
    """Turn from which the names of the classes are exchanged; never if omitted."""
    draw: Annotated[Draw, one_of(get_args(Draw))] = "uniform"
    """How often classes are drawn: uniform, or natural for as often as the data set has them."""
    order: Annotated[Order, one_of(get_args(Order))] = "random"
    """Order of the samples: random, easy_first, hard_first, blocked or interleaved (by class)."""
    choice: ChoiceSettings | None = None
    """Who chooses the sample of every n-th turn among how many; these turns are not counted."""
    announce_labels: bool = True
    """List the labels in the instructions; with false, any word is an answer, right or wrong."""

    @model_validator(mode="before")
    @classmethod
    def _choose_encoding(cls, table: object) -> object:
        """Set the encoding of tables and texts, for which there is only one."""
        dataset = table.get("dataset") if isinstance(table, dict) else None
        if isinstance(table, dict) and isinstance(dataset, str) and "encoding" not in table:
            with translated_errors(f"dataset = {dataset!r}: "):
                modality = modality_of(dataset)
            if modality != "picture":
                return {**table, "encoding": encodings_for(modality)[0]}
        return table

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        if self.choice and self.order != "random":
            raise ValueError(f"choice and order = {self.order!r} exclude each other; use 'random'")
        with translated_errors(f"prompts = {self.prompts!r} with data set {self.dataset!r}: "):
            open_prompt_set(self.prompts).section_for(self.encoding)
        return self


class ModelSettings(_Table):
    """`[model]`: the model that answers."""

    name: Annotated[str, Field(min_length=1)] = "reference/nearest"
    """A built-in model, such as reference/nearest, or the endpoint's name of a model."""
    context_window: Annotated[int | Literal["auto"], tokens_or_auto] = WINDOW
    """Context window in tokens, or auto to ask the endpoint or else the price list."""
    base_url: Annotated[str | None, AfterValidator(web_address)] = None
    """Address of an OpenAI-compatible endpoint; OPENAI_BASE_URL or OpenAI's own if omitted."""
    api_key_env: VariableName | None = None
    """Environment variable that holds the API key; OPENAI_API_KEY if omitted."""
    organization: str | None = None
    """OpenAI organization to charge."""
    headers: Annotated[
        dict[HeaderName, HeaderValue], without_secrets(SENSITIVE_HEADERS, "headers_env")
    ] = {}
    """Additional HTTP headers, which must not contain secrets."""
    headers_env: dict[HeaderName, VariableName] = {}
    """Additional HTTP headers whose values are taken from these environment variables."""
    params: Annotated[dict[str, Any], without_secrets(SENSITIVE_PARAMS, "api_key_env")] = {}
    """Further fields of the request, such as temperature; or parameters of a built-in model."""
    annealing: AnnealingSettings | None = None
    """Temperature that goes evenly from start to end over some turns and then stays, in place of
    a constant `params.temperature`; only for models at endpoints."""
    merge_roles: bool = True
    """Merge consecutive messages of one role, as many chat templates require."""
    system_role: bool = True
    """Send the system message as such; false puts it at the beginning of the first user message."""
    cache_control: bool = False
    """Mark the prompt prefix to be cached, as Anthropic's models behind OpenRouter or LiteLLM need."""
    answer_format: Annotated[AnswerFormat, one_of(get_args(AnswerFormat))] = "text"
    """Form of the reply: text, choice (limited to the labels in whatever way the endpoint can, with
    their log probabilities), schema (JSON with one label) or logprobs (text and label scores)."""

    @property
    def is_built_in(self) -> bool:
        """Whether the model is a reference learner or a simulated model.

        Raises:
            InputError: The name is like that of a built-in model, but there is none.
        """
        return is_built_in(self.name, self.base_url)

    @property
    def window(self) -> int:
        """The context window in tokens.

        Raises:
            InputError: It is `auto` and has not been found out.
        """
        if isinstance(self.context_window, int):
            return self.context_window
        raise InputError(
            f"model.context_window = 'auto' is found out when a run starts; set it to a number to use"
            f" the model {self.name!r} without a run"
        )

    @model_validator(mode="after")
    def _check_built_in(self) -> Self:
        with translated_errors("name: "):
            built_in = self.is_built_in
        extra = self.params.get("extra_body")
        fields = {*self.params, *(extra if isinstance(extra, dict) else ())}
        if self.annealing and "temperature" in fields:
            raise ValueError("annealing and params.temperature exclude each other")
        if built_in:
            with translated_errors("params: "):
                check_params(self.name, self.params)
        return self


class ContextSettings(_Table):
    """`[context]`: which past turns a request shows."""

    policy: Annotated[
        str, checked_by(context_policy), AfterValidator(lambda text: str(context_policy(text)))
    ] = "block"
    """Context policy, for example `last(50)` or `only_correct | within(8000)`."""
    reserve: int = Field(default=1_024, ge=0)
    """Tokens of the context window reserved for the reply."""
    counter: Annotated[str, checked_by(lambda name: name == AUTO or token_counter(name))] = AUTO
    """Token counter: a tiktoken vocabulary, `estimate:` and one, or auto to choose by model."""
    replies: Annotated[Replies, one_of(get_args(Replies))] = "full"
    """How past replies are shown: full, or answer for their last line only."""
    exemplars: int = Field(default=0, ge=0, le=1_000)
    """Samples of each class that every request shows with the right answer before the turns."""
    keep_reasoning: bool = False
    """Show the model its past reasoning too; otherwise only what it says after thinking."""


class ProbeSettings(_Table):
    """`[probes]`: held-out samples asked in forks of the session and never appended."""

    at: list[Annotated[int, Field(ge=0)]] = []
    """Numbers of turns after which the probes are asked; none if empty."""
    count: int = Field(default=20, ge=1)
    """How many samples are asked, the same ones each time."""
    verdicts: Annotated[list[Verdicts], AfterValidator(told_first)] = ["told"]
    """Verdicts on past answers under which they are asked: told, flipped, shuffled, removed."""


ADDED: Mapping[str, Sequence[str]] = {
    "task": ("draw", "order", "choice", "announce_labels"),
    "model": ("annealing", "system_role", "cache_control"),
    "context": ("exemplars", "keep_reasoning"),
    "feedback": ("donor_kind", "form", "every"),
    "probes": ("verdicts",),
}
"""Settings that transcripts record only if they were changed, as earlier versions had none of them."""


class Settings(_Table):
    """The settings of one arm."""

    task: TaskSettings = TaskSettings()
    model: ModelSettings = ModelSettings()
    context: ContextSettings = ContextSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    probes: ProbeSettings = ProbeSettings()
    answers: AnswerSettings = AnswerSettings()

    @model_validator(mode="after")
    def _check_hidden_labels(self) -> Self:
        if self.task.choice and self.feedback.form == "reason":
            raise ValueError("task.choice does not go with feedback.form = 'reason'; use 'plain'")
        if self.task.announce_labels:
            return self
        if self.model.answer_format in ("choice", "schema"):
            raise ValueError(
                "task.announce_labels = false does not go with model.answer_format ="
                f" {self.model.answer_format!r}, which limits replies to the labels; use 'text'"
            )
        if self.model.name.startswith("simulated/"):
            raise ValueError(
                f"task.announce_labels = false: {self.model.name!r} needs the labels to be announced"
            )
        return self

    @property
    def rule(self) -> AnswerRule:
        """The rule by which replies are parsed."""
        return self.answers.as_rule(announced=self.task.announce_labels)

    def recorded(self) -> dict[str, Any]:
        """Return the settings as transcripts record them, without unchanged `ADDED` ones."""
        recorded = self.model_dump(
            mode="json", exclude={"answers"} if self.answers == AnswerSettings() else set()
        )
        for table, keys in ADDED.items():
            for key in keys:
                if recorded[table][key] == type(getattr(self, table)).model_fields[key].default:
                    del recorded[table][key]
        return recorded

    def without_auto(self) -> Self:
        """Return the settings with the best token counter available in place of `auto`.

        The context window of a built-in model is no longer `auto` either.
        """
        built_in, context = self.model.is_built_in, self.context
        if context.counter == AUTO:
            counter = ESTIMATORS["o200k_base"] if built_in else counter_for(self.model.name)
            context = context.model_copy(update={"counter": counter.name})
        settings = self.model_copy(update={"context": context})
        if built_in and self.model.context_window == AUTO:
            return settings.with_window(WINDOW)
        return settings

    def with_window(self, tokens: int) -> Self:
        """Return the settings with this context window."""
        model = self.model.model_copy(update={"context_window": tokens})
        return self.model_copy(update={"model": model})

    def check_turns(self, turns: int, where: str) -> None:
        """Raise InputError if a swap or a probe is due after the end of a session of `turns` turns."""
        swap = self.task.swap_at
        if swap is not None and swap >= turns:
            raise InputError(f"{where}, task.swap_at = {swap}: the session has {turns} turns")
        for after in self.probes.at:
            if after > turns:
                raise InputError(f"{where}, probes.at = {after}: the session has {turns} turns")


class AnalysisSettings(_Table):
    """`[analysis]`: what the experiment is to show, stated before it is run."""

    primary: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None
    """The two arms of the primary contrast; the first is expected to be better."""
    secondary: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []
    """Pairs of arms of the secondary contrasts; if omitted, the first arm of the primary contrast
    against all others, and arms with renamed labels against their own `none`."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """Largest difference in late accuracy that counts as equivalence."""
    effect: float | None = Field(default=None, gt=0, le=1)
    """Difference in late accuracy that the experiment should detect, for `plan`."""


class ExperimentFile(_Table):
    """The top level of an experiment file. Each arm overrides the tables of settings."""

    name: FileName
    """Name of the experiment and of the folder of its transcripts; required."""
    turns: Count = 200
    """Turns per session."""
    streams: Count = 8
    """Streams, each of which every arm plays."""
    repeats: Annotated[int, Field(ge=1, le=MAX_REPEATS)] = 1
    """Times that each arm plays each stream; repeats differ in the model's sampling alone."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of everything random."""
    task: dict[str, Any] = {}
    model: dict[str, Any] = {}
    context: dict[str, Any] = {}
    feedback: dict[str, Any] = {}
    probes: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    arms: list[dict[str, Any]] = [{"name": "feedback"}]
    """The arms: each has a name and overrides any of the tables above."""
    sweep: dict[str, Any] = {}
    """Lists of values by key, such as `"model.params.temperature" = [0, 1]`, with which all arms are
    crossed; an arm that sets a key itself is not crossed with it."""
    analysis: AnalysisSettings = AnalysisSettings()
    limits: LimitSettings = LimitSettings()
    price: PriceSettings | None = None
