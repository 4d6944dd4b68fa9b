"""An experiment: several arms that play the same streams."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from icl_loop.context.policies import notes_policy
from icl_loop.context.policy import ContextPolicy, unknown_functions
from icl_loop.core.errors import DatasetError, InputError, nearest
from icl_loop.core.messages import user
from icl_loop.core.tokens import REQUEST_TOKENS, count_messages, token_counter
from icl_loop.core.validation_messages import shown_value
from icl_loop.experiment.run_settings import LimitSettings, PriceSettings
from icl_loop.experiment.sessions import Place, Session
from icl_loop.experiment.settings import AnalysisSettings, Settings
from icl_loop.models import MAX_LABELS
from icl_loop.tasks.labels import SINGLE_TOKENS
from icl_loop.transcripts.header import AnalysisIdentity, PublishedIdentity


@dataclass(frozen=True)
class Experiment:
    """Arms and the streams that each of them plays.

    Attributes:
        name: Names the folder of the transcripts.
        turns: Turns per session.
        streams: Streams that each arm plays.
        seed: Seed of everything random.
        arms: Settings by name of the arm, in the order of the file.
        analysis: The contrasts and their margin.
        limits: Rate limits and time-outs of endpoints.
        price: Prices that replace the list prices.
        branches: The sessions, if they are branches of saved ones.
        source: The file or table it was read from, which errors name.
        repeats: Times that each arm plays each stream.
        functions: Context policies that are Python functions, by their texts in the settings.
        published: The published results that arms are compared with, by name of the arm.
    """

    name: str
    turns: int
    streams: int
    seed: int
    arms: Mapping[str, Settings]
    analysis: AnalysisSettings
    limits: LimitSettings
    price: PriceSettings | None
    branches: tuple[Session, ...] = ()
    source: str | None = None
    repeats: int = 1
    functions: Mapping[str, ContextPolicy] = field(default_factory=dict)
    published: Mapping[str, PublishedIdentity] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"<Experiment {self.name}: {len(self.arms)} arms, {self.streams} streams,"
            f" {self.turns} turns>"
        )

    def sessions(self) -> Iterator[Session]:
        """Yield the sessions stream by stream, so that arms can be compared early in a run."""
        if self.branches:
            yield from self.branches
            return
        primary = self.analysis.primary
        analysis = AnalysisIdentity(
            primary=(primary[0], primary[1]) if primary else None,
            secondary=tuple((first, second) for first, second in self.analysis.secondary),
            margin=self.analysis.margin,
            streams=self.streams,
        )
        for stream, repeat in product(range(self.streams), range(self.repeats)):
            for arm, settings in self.arms.items():
                yield Session(
                    self.name,
                    arm,
                    stream,
                    self.turns,
                    self.seed,
                    settings,
                    analysis.model_copy(update={"published": self.published.get(arm)}),
                    repeat=repeat,
                    functions=self.functions,
                )

    def donor_of(self, session: Session) -> Place | None:
        """Return the place of the donor that a session still needs, None if it needs none.

        The donor plays the next stream, and that of the last stream the first; both are the same repeat.
        """
        arm = session.settings.feedback.donor
        if arm is None or session.donor is not None:
            return None
        return arm, (session.stream + 1) % self.streams, session.repeat

    def count(self) -> int:
        """Return the number of sessions."""
        return len(self.branches) or self.streams * self.repeats * len(self.arms)

    def check(self, on_session: Callable[[], None] = lambda: None) -> None:
        """Open the data sets, downloading them if necessary, and check that every session can start.

        `on_session` is called after each checked session.

        Raises:
            InputError: A data set is too small, a window too short, or settings do not go together.
        """
        with self.named_in_errors():
            for session in self.sessions():
                if not session.repeat:  # the others have the same samples and settings
                    _check_dataset(session)
                    _check_form(session)
                    _check_model(session)
                    _check_names(session)
                    _check_window(session)
                    _check_policy(session)
                    _check_choice(session)
                on_session()
            _check_verdicts(self.sessions())

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Let the message of an InputError begin with the source of the experiment."""
        try:
            yield
        except InputError as error:
            if self.source is None:
                raise
            raise type(error)(f"{self.source}, {error}") from None


def _check_verdicts(sessions: Iterable[Session]) -> None:
    """Raise InputError if probes with other verdicts are wanted, but no session can ask any."""
    wanting = [each for each in sessions if len(each.settings.probes.verdicts) > 1]
    if wanting and all(len(each.verdicts) == 1 for each in wanting):
        raise InputError(
            f"arm {wanting[0].arm!r}, probes.verdicts = {wanting[0].settings.probes.verdicts}: no"
            " request shows a verdict that could be changed; leave it out, or give the arm feedback"
            " that judges the answers and a context.policy that shows past turns"
        )


def _check_dataset(session: Session) -> None:
    """Raise DatasetError, which names arm and key, if the data set does not load or is too small."""
    try:
        _ = session.inputs
    except DatasetError as error:
        name = shown_value(session.settings.task.dataset)
        raise DatasetError(f"arm {session.arm!r}, task.dataset = {name}: {error}") from None


def _check_form(session: Session) -> None:
    """Raise InputError if the prompt set cannot word the feedback."""
    feedback, prompts = session.settings.feedback, session.settings.task.prompts
    try:
        session.inputs.prompts.check_forms(feedback.form, feedback.every)
    except InputError as error:
        key = (
            f"every = {feedback.every}" if feedback.form == "plain" else f"form = {feedback.form!r}"
        )
        raise InputError(
            f"arm {session.arm!r}, feedback.{key}, task.prompts = {prompts!r}: {error}"
        ) from None


def _check_choice(session: Session) -> None:
    """Raise InputError if the model cannot choose samples as the settings say."""
    settings, task = session.settings, session.task
    if not task.candidates or task.chooser != "model":
        return
    place = f"arm {session.arm!r}, task.choice"
    if settings.task.encoding == "png":
        raise InputError(f"{place}: samples are offered as text; use another encoding than 'png'")
    if settings.model.answer_format in ("choice", "schema") and not settings.model.is_built_in:
        raise InputError(
            f"{place}: with model.answer_format = {settings.model.answer_format!r} every reply is a"
            " label, so the model cannot choose a sample; use 'text' or 'logprobs'"
        )
    try:
        questions = map(task.choice_question, task.candidates)
        room = min(session.window.left_after(*task.opening, question) for question in questions)
    except InputError as error:
        raise InputError(f"{place}, task.prompts = {settings.task.prompts!r}: {error}") from None
    if room < 0:
        raise InputError(
            f"{place}: model.context_window = {session.window.tokens} is {-room} tokens too short for a"
            " request that offers so many samples; offer fewer with task.choice.among"
        )


def _check_model(session: Session) -> None:
    """Raise InputError if a model does not take its parameters."""
    model, place = session.settings.model, f"arm {session.arm!r}, model.params"
    if model.is_built_in and model.annealing is not None:
        raise InputError(
            f"arm {session.arm!r}, model.annealing: the built-in model {model.name!r} has no temperature"
        )
    most, number = MAX_LABELS.get(model.name), len(session.task.labels)
    if model.is_built_in and most is not None and number > most:
        raise InputError(
            f"arm {session.arm!r}, model.name = {model.name!r}: the model knows at most {most} labels, and"
            f" {session.settings.task.dataset} has {number}; use another model or fewer classes"
        )
    if not model.params:
        return
    if not model.is_built_in:
        _check_request_fields(model.params, f"arm {session.arm!r}")
        return
    try:
        session.open_model()
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    label, labels = model.params.get("label"), session.task.labels
    if label is not None and label not in labels:
        raise InputError(
            f"{place}.label = {shown_value(label)}: stream {session.stream} has no such label;"
            f" {nearest(str(label), labels)}"
        )


def _check_request_fields(params: Mapping[str, Any], place: str) -> None:
    """Raise InputError, which begins with `place`, if the program sets a field of requests itself."""
    from icl_loop.models.openai.request_body import parse_params  # noqa: PLC0415  loads slowly

    try:
        parse_params(params)
    except InputError as error:
        raise InputError(f"{place}, {error}") from None


def _check_names(session: Session) -> None:
    """Raise InputError if log probabilities are asked for names that take several tokens."""
    settings, number = session.settings, len(session.task.labels)
    asked = settings.model.answer_format in ("choice", "logprobs")
    if asked and settings.task.labels == "abstract" and number > len(SINGLE_TOKENS):
        raise InputError(
            f"arm {session.arm!r}, model.answer_format = {settings.model.answer_format!r}: only"
            f" {len(SINGLE_TOKENS)} abstract names are single tokens, and {number} classes need more;"
            " use model.answer_format = 'text'"
        )


def _check_window(session: Session) -> None:
    """Raise InputError if the context window is too short for one question."""
    tokens, context = session.settings.model.window, session.settings.context
    reserve, counter = context.reserve, token_counter(context.counter)
    messages = (*session.task.opening, session.task.question(0))
    needed = count_messages(counter, messages) + REQUEST_TOKENS
    if needed + reserve <= tokens:
        return
    exemplars = " and the exemplars" if session.task.exemplars else ""
    lower = f", or context.reserve to at most {tokens - needed}" if tokens > needed else ""
    raise InputError(
        f"arm {session.arm!r}: model.context_window = {tokens} has no room for one"
        f" question{exemplars}, which needs {needed} tokens beside the {reserve} that context.reserve keeps for the reply; set"
        f" model.context_window to at least {needed + reserve}{lower}"
    )


def _check_policy(session: Session) -> None:
    """Raise InputError if the session cannot play under its context policy."""
    policy, task = session.policy, session.task
    place = f"arm {session.arm!r}, context.policy = {policy}"
    if unknown_functions(policy):
        raise InputError(
            f"{place}: a Python function can be played from Python only; pass it to icl_loop.run"
        )
    notes = notes_policy(policy)
    if notes is None:
        return
    if task.prompts.notes is None:
        raise InputError(
            f"{place}: the prompt set {session.settings.task.prompts} has no table [notes]"
        )
    answer_format = session.settings.model.answer_format
    if answer_format in ("choice", "schema") and not session.settings.model.is_built_in:
        raise InputError(
            f"{place}: with model.answer_format = {answer_format!r} every reply is a label, so the model"
            " cannot write notes; use 'text' or 'logprobs'"
        )
    request = user(task.prompts.notes.ask(notes.tokens))
    room = session.window.left_after(*task.opening, task.question(0), request) - notes.tokens
    if room < 0:
        raise InputError(
            f"{place}: model.context_window = {session.window.tokens} is {-room} tokens too short"
            " for these notes"
        )
