"""Runs: many sessions at once in one event loop, each into its own transcript."""

import asyncio
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from filelock import FileLock, Timeout

from icl_loop.analysis import conclude, frame
from icl_loop.analysis import sessions as sessions_of
from icl_loop.analysis.contrasts import STOP_AT
from icl_loop.analysis.inference import verdict
from icl_loop.analysis.session_settings import EARLY_STOP_NAME
from icl_loop.context import History, from_spans
from icl_loop.core.errors import (
    ContextFull,
    FolderLocked,
    IclLoopError,
    InputError,
    StoppedShort,
    TranscriptError,
)
from icl_loop.core.messages import Usage
from icl_loop.core.records import Event, Probe, Turn
from icl_loop.experiment import Donor, Experiment, Session
from icl_loop.models.limits import Budget
from icl_loop.models.retrying import RequestPolicy
from icl_loop.runner.engines import Engine, Play, Saved, local
from icl_loop.runner.model_pool import ModelPool, OpenModel
from icl_loop.runner.scheduler import Rank, Scheduler
from icl_loop.transcripts import (
    Transcript,
    TranscriptWriter,
    begin,
    check_resumable,
    has_whole_line,
    is_begun,
    read,
)
from icl_loop.transcripts.durable_append import DurableAppender

DEFAULT_CONCURRENCY = 32
LOCK_NAME = ".lock"

OnTurn = Callable[[Session, Turn], None]


@dataclass(frozen=True, slots=True)
class Stop:
    """A session that could not go on, and why."""

    session: Session
    reason: IclLoopError


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Why a run stopped before all streams were played: the evidence of those played sufficed.

    Attributes:
        primary: The arms compared.
        differences: Late accuracy of the first less that of the second, stream by stream.
        evidence: The e-process after each stream; the last value is `STOP_AT` or more.
    """

    primary: tuple[str, str]
    differences: tuple[float, ...]
    evidence: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run.

    Attributes:
        folder: Where its transcripts are.
        paths: The transcripts of all sessions of the experiment that exist now.
        stops: The sessions that could not go on.
        interrupted: Whether it was told to stop.
        early: Why it needed no more streams, if it did not.
    """

    folder: Path
    paths: tuple[Path, ...]
    stops: tuple[Stop, ...]
    interrupted: bool
    early: EarlyStop | None = None

    @property
    def complete(self) -> bool:
        """Whether every session was played to its end, or no more were needed."""
        return not self.stops and not self.interrupted


@dataclass
class Run:
    """One experiment being played into a folder.

    Attributes:
        experiment: What is played.
        out: The folder that holds the experiment's own folder.
        concurrency: Sessions that play at once.
        open_model: Opens the model of a session; its own by its settings unless told otherwise.
        engine: Where sessions are played: in this process unless told otherwise.
        max_usd: US dollars that the experiment may cost in all, saved sessions included, or None.
        max_tokens: Prompt and completion tokens that it may take in all, or None.
        stop_early: Stop once the e-process over streams has evidence enough; it may be looked at
            after every stream. Needs a primary contrast.
        on_turn: Called with every turn that is safe on the disk, saved ones on resume included.
    """

    experiment: Experiment
    out: Path
    concurrency: int = DEFAULT_CONCURRENCY
    on_turn: OnTurn = lambda _session, _turn: None
    open_model: OpenModel | None = None
    engine: Engine = local
    max_usd: float | None = None
    max_tokens: int | None = None
    stop_early: bool = False
    meter: Budget = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _ended: dict[tuple[str, int], asyncio.Event] = field(default_factory=dict, init=False)
    _slots: Scheduler = field(default_factory=lambda: Scheduler(1), init=False)
    _whole: list[Path] = field(default_factory=list, init=False)
    _early: EarlyStop | None = field(default=None, init=False)
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.meter = Budget(self.max_usd, self.max_tokens)

    @property
    def folder(self) -> Path:
        """The folder of the transcripts."""
        return self.out / self.experiment.name

    @property
    def stopping(self) -> bool:
        """Whether the run was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let every session finish and save the turn it is in, then end the run."""
        self._stopping.set()
        self._slots.open(math.inf)

    def check(self, on_session: Callable[[], None] = lambda: None) -> None:
        """Raise InputError if the experiment cannot be played so; `play` does it if it was not done.

        Args:
            on_session: Called after each session that was checked.
        """
        if self.stop_early and self.experiment.analysis.primary is None:
            raise InputError(
                "stopping early needs a primary contrast: name one in [analysis] primary"
            )
        self.experiment.check(on_session)
        self._checked = True

    async def play(self) -> RunResult:
        """Play what is unfinished; skip what is complete.

        Raises:
            InputError: The experiment cannot be played, or the folder holds sessions of other
                settings; nothing was requested then.
            FolderLocked: Another process is writing in the folder.
        """
        if not self._checked:
            self.check()
        sessions = list(self.experiment.sessions())
        self._ended = {(session.arm, session.stream): asyncio.Event() for session in sessions}
        pool = ModelPool(self.experiment, self.meter, self.concurrency, self.open_model)
        async with pool as models, self.engine(models, sessions, self._stopping) as play:
            with _locked(self.folder), DurableAppender() as journal:
                for session in sessions:
                    yoked = self.experiment.donor_of(session) is not None
                    check_resumable(self.path(session), session.header(), donor=not yoked)
                self._count_saved(models, sessions)
                self._slots = Scheduler(self.concurrency, upto=1 if self.stop_early else math.inf)
                async with asyncio.TaskGroup() as group:
                    playing = [
                        group.create_task(self._session(session, play, journal))
                        for session in sessions
                    ]
                self._close_early(sessions)
        return RunResult(
            folder=self.folder,
            paths=tuple(path for session in sessions if (path := self.path(session)).exists()),
            stops=tuple(stop for task in playing if (stop := task.result()) is not None),
            interrupted=self._stopping.is_set() and self._early is None,
            early=self._early,
        )

    def path(self, session: Session) -> Path:
        """Return where the transcript of `session` is."""
        return self.folder / session.file_name

    def _count_saved(self, models: ModelPool, sessions: Iterable[Session]) -> None:
        """Charge the budget with what the saved turns have already taken."""
        if not self.meter.is_limited:
            return
        for session in sessions:
            if has_whole_line(self.path(session)):
                saved = read(self.path(session))
                shared = session.branch.identity.at if session.branch else 0
                answered: tuple[Event | Probe, ...] = (
                    *saved.events[len(session.begun) :],
                    *(each for each in saved.probes if each.after_turn >= shared),
                )
                for usage in _used(session, models.terms(session), saved, answered):
                    self.meter.add(usage, models.cost(session)(usage))

    async def _session(self, session: Session, play: Play, journal: DurableAppender) -> Stop | None:
        """Play one session as far as it goes; return why it stopped if it could not go on."""
        try:
            playable = await self._with_donor(session)
            async with self._slots.place(self._rank(session)):
                if self._stopping.is_set():
                    return None
                self._refuse_removed()
                self._begin(playable)
                with TranscriptWriter(self.path(session), playable.header(), journal) as recorder:
                    await self._record(playable, play, recorder)
        except IclLoopError as reason:
            return (
                None
                if isinstance(reason, _DonorStopped) and self.stopping
                else Stop(session, reason)
            )
        finally:
            self._ended[session.arm, session.stream].set()
            if self.stop_early:
                self._slots.open(1 + self._streams_ended())
        return None

    def _refuse_removed(self) -> None:
        """Raise StoppedShort if the folder went away, and with it the lock that keeps others out."""
        if not (self.folder / LOCK_NAME).exists():
            raise StoppedShort(f"{self.folder} was removed while the run was writing in it")

    def _rank(self, session: Session) -> Rank:
        """Return when a session is due: with its stream, a donor with the stream that needs it."""
        donors = {arm.feedback.donor for arm in self.experiment.arms.values()}
        arms = list(self.experiment.arms)
        if session.arm not in donors:
            return session.stream, 1 + arms.index(session.arm)
        needed_by = (session.stream - 1) % self.experiment.streams
        return min(session.stream, needed_by), 0

    def _streams_ended(self) -> int:
        """Return how many leading streams have no session that still plays or will play."""
        for stream in range(self.experiment.streams):
            if not all(self._ended[arm, stream].is_set() for arm in self.experiment.arms):
                return stream
        return self.experiment.streams

    async def _with_donor(self, session: Session) -> Session:
        """Return the session with what its donor was told, once the donor has played to its end.

        A session that was begun keeps the donor it was begun with.
        """
        place = self.experiment.donor_of(session)
        if place is None:
            return session
        if has_whole_line(self.path(session)) and (begun := read(self.path(session)).header.donor):
            if begun.arm != place[0] or begun.stream == session.stream:
                raise TranscriptError(
                    f"{self.path(session)}, line 1, donor: {begun.arm!r}, stream {begun.stream}, is"
                    f" no session that it can be told the words of"
                )
            place = begun.arm, begun.stream
        if place in self._ended:
            await self._ended[place].wait()
        path = self.folder / Session.name_of(*place)
        transcript = read(path) if has_whole_line(path) else None
        if transcript is None or transcript.end is None:
            raise _DonorStopped(f"its donor {path.name} is missing or unfinished")
        if transcript.end.status != "context_full" and len(transcript.turns) < session.turns:
            raise StoppedShort(
                f"its donor {path.name} ended after {len(transcript.turns)} of"
                f" {session.turns} turns"
            )
        return replace(session, donor=Donor.of(transcript))

    def _begin(self, session: Session) -> None:
        """Write the turns that a branch shares, unless they are there or something else is."""
        branch, path = session.branch, self.path(session)
        if branch is not None and not is_begun(path, branch.lines):
            begin(path, session.header(), branch.lines)

    async def _record(self, session: Session, play: Play, recorder: TranscriptWriter) -> None:
        for turn in recorder.saved if recorder.end else ():
            self.on_turn(session, turn)
        if recorder.end:
            self._look(session)
            return
        played = turns = 0
        saved = Saved(recorder.events, recorder.probes)
        try:
            async with aclosing(play(session, saved)) as entries:
                async for entry in recorder.record(entries):
                    played += not isinstance(entry, Probe)
                    if isinstance(entry, Turn):
                        turns += 1
                        self.on_turn(session, entry)
                    await asyncio.sleep(0)  # a model that never waits must not starve the others
                    if self._stopping.is_set() and played >= len(recorder.events):
                        return
        except ContextFull:
            recorder.finish("context_full", turns)
        else:
            whole = turns == session.turns  # a yoked session ends where its donor did
            recorder.finish("complete" if whole else "context_full", turns)
            self._look(session)

    def _look(self, session: Session) -> None:
        """Stop the run if the sessions played so far are evidence enough for the whole verdict.

        Every control that the verdict needs must be passed, not the primary contrast alone.
        """
        if not self.stop_early or self._early is not None:
            return
        self._whole.append(self.path(session))
        played = sorted(self._leading())
        if not played:
            return
        turns = frame(played)
        concluded = conclude(turns, sessions=sessions_of(played))
        primary = concluded.primary
        if primary is None or primary.e_value < STOP_AT:
            return
        if verdict(primary, concluded.needed, stopped_early=True) == "learned":
            self._early = EarlyStop(primary.arms, primary.differences, concluded.evidence)
            self.stop()

    def _leading(self) -> set[Path]:
        """Return the transcripts of the leading streams that were played whole, in every arm."""
        leading: set[Path] = set()
        for stream in range(self.experiment.streams):
            names = (Session.name_of(arm, stream) for arm in self.experiment.arms)
            paths = {self.folder / name for name in names}
            if not paths <= set(self._whole):
                break
            leading |= paths
        return leading

    def _close_early(self, sessions: Iterable[Session]) -> None:
        """Say in the folder why no more was played; a run that was over anyway did not stop early."""
        if self._early is None:
            return
        if len(self._whole) == len(list(sessions)):
            self._early = None
            self._stopping.clear()
            return
        try:
            (self.folder / EARLY_STOP_NAME).write_text(json.dumps(asdict(self._early)) + "\n")
        except OSError as error:
            raise StoppedShort(
                f"{self.folder / EARLY_STOP_NAME} cannot be written: {error.strerror}; all turns"
                " are saved: make room and run again to stop early"
            ) from None


def _used(
    session: Session,
    terms: RequestPolicy | None,
    saved: Transcript,
    answered: Iterable[Event | Probe],
) -> Iterator[Usage]:
    """Yield the tokens of saved requests; a probe is as long as the turn after it, if there is one."""
    turns = {turn.index: turn.counted or 0 for turn in saved.turns}
    longest = max(turns.values(), default=0)
    history = cache(partial(History.for_task, session.task, session.window, saved.events))
    for each in answered:
        if terms is None or each.reply.usage.prompt:
            yield each.reply.usage
        elif not isinstance(each, Probe):
            yield terms.usage(each.counted or longest, each.reply)
        elif each.after_turn in turns:
            yield terms.usage(turns[each.after_turn] or longest, each.reply)
        else:
            yield terms.usage(_counted(session, history(), each), each.reply)


def _counted(session: Session, history: History, probe: Probe) -> int:
    """Return the tokens of a saved probe that no turn came after."""
    task, shown = session.task, from_spans(probe.kept)
    sample = next((each for each in task.probes if each.id == probe.sample), None)
    if sample is None:
        return history.tokens.of_turns(shown)
    return history.tokens.of_request(shown, task.question_about(sample))


class _DonorStopped(StoppedShort):
    """A session cannot be told what its donor was told, since that one stopped."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder alone; a second process is refused rather than kept waiting."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise FolderLocked(
            f"another process is writing transcripts in {folder}; wait for it or choose --out"
        ) from None
    except OSError as error:
        raise StoppedShort(f"{folder} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
