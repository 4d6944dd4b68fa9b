"""Runs: many sessions at once in one event loop, each into its own transcript."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from icl_loop.errors import (
    ContextFull,
    DirectoryBusy,
    IclLoopError,
    ReplayMismatch,
    StoppedShort,
)
from icl_loop.experiment import Experiment, Session
from icl_loop.journal import Journal
from icl_loop.loop import play
from icl_loop.models import ChatModel, ReplayModel
from icl_loop.models.limits import Meter
from icl_loop.pool import ModelPool, OpenModel
from icl_loop.records import Turn
from icl_loop.transcripts import (
    Recorder,
    Transcript,
    check_resumable,
    compare,
    has_whole_line,
    read,
)

DEFAULT_CONCURRENCY = 32
LOCK_NAME = ".lock"

OnTurn = Callable[[Session, Turn], None]


@dataclass(frozen=True, slots=True)
class Stop:
    """A session that could not go on, and why."""

    session: Session
    reason: IclLoopError


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run.

    Attributes:
        folder: Where its transcripts are.
        paths: The transcripts of all sessions of the experiment that exist now.
        stops: The sessions that could not go on.
        interrupted: Whether it was told to stop.
    """

    folder: Path
    paths: tuple[Path, ...]
    stops: tuple[Stop, ...]
    interrupted: bool

    @property
    def complete(self) -> bool:
        """Whether every session was played to its end."""
        return not self.stops and not self.interrupted


@dataclass
class Run:
    """One experiment being played into a folder.

    Attributes:
        experiment: What is played.
        out: The folder that holds the experiment's own folder.
        concurrency: Sessions that play at once.
        open_model: Opens the model of a session; its own by its settings unless told otherwise.
        max_usd: US dollars that the experiment may cost in all, saved sessions included, or None.
        max_tokens: Prompt and completion tokens that it may take in all, or None.
        on_turn: Called with every turn that is safe on the disk, saved ones on resume included.
    """

    experiment: Experiment
    out: Path
    concurrency: int = DEFAULT_CONCURRENCY
    on_turn: OnTurn = lambda _session, _turn: None
    open_model: OpenModel | None = None
    max_usd: float | None = None
    max_tokens: int | None = None
    meter: Meter = field(init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self.meter = Meter(self.max_usd, self.max_tokens)

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

    async def play(self) -> RunResult:
        """Play what is unfinished; skip what is complete.

        Raises:
            InputError: The experiment cannot be played, or the folder holds sessions of other
                settings; nothing was requested then.
            DirectoryBusy: Another process is writing in the folder.
        """
        self.experiment.check()
        sessions = list(self.experiment.sessions())
        with _locked(self.folder), Journal() as journal:
            for session in sessions:
                check_resumable(self.path(session), session.header())
            pool = ModelPool(self.experiment, self.meter, self.concurrency, self.open_model)
            async with pool as models:
                models.open(sessions)
                self._count_saved(models, sessions)
                slots = asyncio.Semaphore(self.concurrency)
                async with asyncio.TaskGroup() as group:
                    playing = [
                        group.create_task(self._session(session, models[session], slots, journal))
                        for session in sessions
                    ]
        return RunResult(
            folder=self.folder,
            paths=tuple(path for session in sessions if (path := self.path(session)).exists()),
            stops=tuple(stop for task in playing if (stop := task.result()) is not None),
            interrupted=self._stopping.is_set(),
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
                for turn in read(self.path(session)).turns:
                    self.meter.add(turn.reply.usage, models.cost(session)(turn.reply.usage))

    async def _session(
        self, session: Session, model: ChatModel, slots: asyncio.Semaphore, journal: Journal
    ) -> Stop | None:
        """Play one session as far as it goes; return why it stopped if it could not go on."""
        async with slots:
            if self._stopping.is_set():
                return None
            try:
                with Recorder(self.path(session), session.header(), journal) as recorder:
                    await self._record(session, model, recorder)
            except IclLoopError as reason:
                return Stop(session, reason)
        return None

    async def _record(self, session: Session, model: ChatModel, recorder: Recorder) -> None:
        for turn in recorder.saved if recorder.end else ():
            self.on_turn(session, turn)
        if recorder.end:
            return
        replay = ReplayModel(recorder.saved, then=model)
        turns = play(session.task, replay, session.policy, session.window)
        played = 0
        try:
            async for turn in recorder.record(turns):
                played += 1
                self.on_turn(session, turn)
                await asyncio.sleep(0)  # a model that never waits must not starve the others
                if self._stopping.is_set() and played >= len(recorder.saved):
                    return
        except ContextFull:
            recorder.finish("context_full", played)
        else:
            recorder.finish("complete", played)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder alone; a second process is refused rather than kept waiting."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME, timeout=0)
        lock.acquire()
    except Timeout:
        raise DirectoryBusy(
            f"another process is writing transcripts in {folder}; wait for it or choose --out"
        ) from None
    except OSError as error:
        raise StoppedShort(f"{folder} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


async def verify(transcript: Transcript) -> int:
    """Derive every turn of a saved session again and return how many there are.

    Requests, questions, readings, judgements and told words are rebuilt from the recorded
    settings, the data and the recorded replies.

    Raises:
        ReplayMismatch: A turn differs; names the first one and the field.
        InputError: The settings cannot be followed, or the data are not the same.
    """
    session = Session.of(transcript.header)
    rebuilt, saved = session.header(), transcript.header
    for name in ("labels", "system"):
        if getattr(rebuilt, name) != getattr(saved, name):
            raise ReplayMismatch(0, f"{name} is no longer what was recorded")
    turns = play(session.task, ReplayModel(transcript.turns), session.policy, session.window)
    for turn in transcript.turns:
        compare(turn, await anext(turns))
    if transcript.end is not None and transcript.end.turns != len(transcript.turns):
        raise ReplayMismatch(
            transcript.end.turns, f"the end line counts {transcript.end.turns} turns"
        )
    return len(transcript.turns)
