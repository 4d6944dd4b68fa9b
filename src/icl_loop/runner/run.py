"""Play the sessions of an experiment concurrently, each into its own transcript."""

import asyncio
import errno
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from icl_loop.core.errors import FolderLocked, IclLoopError, InputError, StoppedShort, reason_of
from icl_loop.core.messages import Usage
from icl_loop.core.regular_files import read_regular
from icl_loop.experiment import Experiment, Session
from icl_loop.experiment.donors import DonorUnfinished, find_donor, read_donor
from icl_loop.experiment.sessions import Place
from icl_loop.models.limits import Budget
from icl_loop.runner.discovery import Endpoints, ask_endpoints, slots, with_windows
from icl_loop.runner.early_stopping import EarlyStop, EarlyStopping
from icl_loop.runner.engines import Engine, local
from icl_loop.runner.model_pool import ModelPool, OpenModel
from icl_loop.runner.scheduler import Rank, Scheduler, playable_at_once
from icl_loop.runner.session import OnTurn, PlaySession, save_session
from icl_loop.transcripts import TranscriptWriter, read, read_header
from icl_loop.transcripts.comparison import check_resumable
from icl_loop.transcripts.durable_append import DurableAppender
from icl_loop.transcripts.reader import has_entry, has_whole_line
from icl_loop.transcripts.writer import begin, is_begun

DEFAULT_CONCURRENCY = 32
LOCK_NAME = ".lock"
UNSAVED_NAME = ".unsaved_usage"
"""Tokens and cost of failed attempts that no transcript has, as lines of JSON."""
_UNSAVED_BYTES = 2**24
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""Errors of file systems that have no locks, such as some mounts of NFS, Lustre and FUSE."""


@dataclass(frozen=True, slots=True)
class StoppedSession:
    """A session that could not continue, and why."""

    session: Session
    reason: IclLoopError


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        folder: The folder of its transcripts.
        paths: The transcripts that exist now, in the order of the sessions.
        stopped: The sessions that could not continue.
        interrupted: Whether `Run.stop` ended it.
        early_stop: The evidence if it stopped early.
    """

    folder: Path
    paths: tuple[Path, ...]
    stopped: tuple[StoppedSession, ...]
    interrupted: bool
    early_stop: EarlyStop | None = None

    @property
    def complete(self) -> bool:
        """Whether every session was played to its end, or the run stopped early."""
        return not self.stopped and not self.interrupted


@dataclass
class Run:
    """An experiment and the folder it is played into.

    Attributes:
        experiment: The experiment.
        out: The parent of the experiment's folder.
        concurrency: How many sessions play at the same time; by default as many as the slots of
            llama.cpp servers, so that each session keeps its prompt cache, and 32 otherwise.
        on_turn: Called with every saved turn, including those of resumed sessions.
        open_model: Opens the model of a session; by default, the one in its settings.
        engine: Where sessions are played; by default, in this process.
        max_usd: Most US dollars that the experiment may cost, saved sessions included.
        max_tokens: Most prompt and completion tokens it may use, saved sessions included.
        stop_early: Stop once the streams played settle the primary contrast (e-process).
        on_ready: Called once, when the folder is locked and its transcripts can be resumed.
        budget: What the run has spent so far.
        remarks: What was found out about the endpoints and this machine and changes how the run is
            played.
    """

    experiment: Experiment
    out: Path
    concurrency: int | None = None
    on_turn: OnTurn = lambda _session, _turn: None
    open_model: OpenModel | None = None
    engine: Engine = local
    max_usd: float | None = None
    max_tokens: int | None = None
    stop_early: bool = False
    on_ready: Callable[[], object] = lambda: None
    budget: Budget = field(init=False)
    remarks: list[str] = field(default_factory=list, init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _ended: dict[Place, asyncio.Event] = field(default_factory=dict, init=False)
    _scheduler: Scheduler = field(init=False)
    _early: EarlyStopping | None = field(init=False)
    _endpoints: Endpoints | None = field(default=None, init=False)
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.max_usd, self.max_tokens)
        self._scheduler = self._new_scheduler()
        self._early = EarlyStopping(self.experiment, self.folder) if self.stop_early else None

    @property
    def folder(self) -> Path:
        """The folder of the transcripts."""
        return self.out / self.experiment.name

    @property
    def stopping(self) -> bool:
        """Whether the run was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Let every session finish and save its current turn, then end the run."""
        self._stopping.set()
        self._scheduler.admit(math.inf)

    def path(self, session: Session) -> Path:
        """Return the path of the transcript of `session`."""
        return self.folder / session.file_name

    def _new_scheduler(self) -> Scheduler:
        last_stream = 1 if self.stop_early and not self.stopping else math.inf
        return Scheduler(self.concurrency or DEFAULT_CONCURRENCY, last_stream=last_stream)

    async def ask_endpoints(self) -> None:
        """Find out what the endpoints are, and with that the context windows that are `auto`.

        `play` does so if you do not. A run with models of your own asks nothing.

        Raises:
            InputError: A window is larger than the endpoint's or cannot be found out, or an API key
                is missing.
            StoppedShort: A window is `auto`, and the endpoint cannot be reached.
        """
        if self._endpoints is not None:
            return
        found = {} if self.open_model else await ask_endpoints(self.experiment)
        self.experiment = with_windows(self.experiment, found)
        self._endpoints = found
        available = slots(found.values())
        if self.concurrency is None and available is not None:
            self.concurrency = available
            self._scheduler = self._new_scheduler()
            self.remarks.append(
                f"llama.cpp has {available} slots: that many sessions are played at the same time,"
                " each with its own prompt cache (--concurrency overrides this)"
            )

    def check(self, on_session: Callable[[], None] = lambda: None) -> None:
        """Raise InputError if the experiment cannot be played; call `on_session` per checked session.

        `play` checks the experiment if you do not. A context window must not be `auto` any more.
        """
        if self.stop_early and self.experiment.analysis.primary is None:
            raise InputError(
                "stopping early needs a primary contrast: name two arms in analysis.primary"
            )
        self.experiment.check(on_session)
        self._bound_concurrency()
        self._checked = True

    def _bound_concurrency(self) -> None:
        """Play fewer sessions at the same time if this process may not open enough files."""
        wanted = min(self.concurrency or DEFAULT_CONCURRENCY, self.experiment.count())
        if (possible := playable_at_once(wanted)) < wanted:
            self.concurrency = possible
            self._scheduler = self._new_scheduler()
            self.remarks.append(
                f"only {possible} sessions are played at the same time, because this process may"
                " not open more files (allow more with `ulimit -n`)"
            )

    async def play(self) -> RunResult:
        """Play the sessions that are unfinished and skip those that are complete.

        Raises:
            InputError: The experiment cannot be played, or the folder holds sessions with other
                settings; the model was asked nothing.
            FolderLocked: Another process is writing in the folder.
        """
        await self.ask_endpoints()
        if not self._checked:
            self.check()
        sessions = list(self.experiment.sessions())
        self._ended = {each.place: asyncio.Event() for each in sessions}
        concurrency = self.concurrency or DEFAULT_CONCURRENCY
        pool = ModelPool(
            self.experiment, self.budget, concurrency, self.open_model, self._endpoints or {}
        )
        async with self.engine(pool, sessions, self._stopping) as play:
            with _locked(self.folder), DurableAppender() as appender:
                for session in sessions:
                    yoked = self.experiment.donor_of(session) is not None
                    check_resumable(self.path(session), session.header(), donor=not yoked)
                    self._charge_saved(session, pool)
                self._charge_unsaved()
                self.on_ready()
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._play(each, play, appender)) for each in sessions
                    ]
                early_stop = self._early.save() if self._early else None
        completed = self._early is not None and self._early.result is not None
        return RunResult(
            folder=self.folder,
            paths=tuple(path for session in sessions if (path := self.path(session)).exists()),
            stopped=tuple(stop for task in tasks if (stop := task.result()) is not None),
            interrupted=self.stopping and not completed,
            early_stop=early_stop,
        )

    def _charge_saved(self, session: Session, pool: ModelPool) -> None:
        """Charge the budget, if it is limited, for saved requests, except those of a branch's parent."""
        if not self.budget.is_limited or not has_whole_line(self.path(session)):
            return
        saved, policy, cost = read(self.path(session)), pool.policy(session), pool.cost(session)
        shared = session.branch.identity.at if session.branch else 0
        own_probes = [probe for probe in saved.probes if probe.after_turn >= shared]
        for each in (*saved.events[len(session.shared_events) :], *own_probes):
            if policy:
                policy.charge(each.counted or 0, each.reply)
            else:
                self.budget.add(each.reply.usage, cost(each.reply.usage))

    def _charge_unsaved(self) -> None:
        """Charge the budget, if it is limited, for attempts that no transcript has; note new ones."""
        path = self.folder / UNSAVED_NAME
        try:
            lines = read_regular(path, _UNSAVED_BYTES).splitlines() if path.exists() else []
        except OSError as error:
            raise InputError(f"{path} cannot be read: {reason_of(error)}") from None
        if self.budget.is_limited:
            for line in lines:
                with suppress(ValueError):  # a line was cut when the process was killed
                    fields = json.loads(line)
                    self.budget.add(Usage(**fields["usage"]), fields["usd"])

        def save(usage: Usage, usd: float) -> None:
            with suppress(OSError), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"usage": asdict(usage), "usd": usd}) + "\n")

        self.budget.on_unsaved = save

    async def _play(
        self, session: Session, play: PlaySession, appender: DurableAppender
    ) -> StoppedSession | None:
        """Play one session as far as possible; return why it stopped if it could not continue."""
        path = self.path(session)
        try:
            session = await self._with_donor(session)
            async with self._scheduler.slot(self._rank(session)):
                if self.stopping:
                    return None
                if not (self.folder / LOCK_NAME).exists():  # the lock is gone with the folder
                    raise StoppedShort(f"{self.folder} was removed while the run was writing to it")
                if session.branch and not is_begun(path, session.branch.lines):
                    begin(path, session.header(), session.branch.lines)
                with TranscriptWriter(path, session.header(), appender) as writer:
                    ended = await save_session(session, play, writer, self.on_turn, self._stopping)
                    if ended and self._early and self._early.complete(session):
                        self.stop()
        except IclLoopError as reason:
            if not (isinstance(reason, DonorUnfinished) and self.stopping):
                return StoppedSession(session, reason)
        finally:
            self._ended[session.place].set()
            if self._early:
                self._scheduler.admit(self._early.end(session))
        return None

    async def _with_donor(self, session: Session) -> Session:
        """Return the session with its donor: the recorded one, or the new one once it has ended."""
        key, path = self.experiment.donor_of(session), self.path(session)
        if key is None:
            return session
        if has_entry(path) and (recorded := find_donor(read_header(path), path)):
            return replace(session, donor=recorded)
        await self._ended[key].wait()
        donor = read_donor(self.folder / Session.name_of(*key), session.turns)
        return replace(session, donor=donor)

    def _rank(self, session: Session) -> Rank:
        """Return the priority of a session: its stream, or for donors the stream that needs them."""
        donors = {arm.feedback.donor for arm in self.experiment.arms.values()}
        if session.arm not in donors:
            return session.stream, 1 + list(self.experiment.arms).index(session.arm)
        needed_by = (session.stream - 1) % self.experiment.streams
        return min(session.stream, needed_by), 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; fail at once if it is locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(folder / LOCK_NAME)
    except Timeout as locked:
        marked = Path(locked.lock_file).name != LOCK_NAME
        raise FolderLocked(
            f"another process is writing transcripts in {folder}; wait for it or choose another"
            f" --out{f' (if there is none, remove {locked.lock_file})' if marked else ''}"
        ) from None
    except OSError as error:
        raise StoppedShort(f"cannot write to {folder}: {reason_of(error)}") from None
    try:
        yield
    finally:
        lock.release()


def _acquired(path: Path) -> BaseFileLock:
    """Return a lock that is held; on a file system without locks, a file that names its holder."""
    lock: BaseFileLock = FileLock(path, timeout=0)
    try:
        with warnings.catch_warnings(action="ignore"):  # filelock warns where flock is missing
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # A file whose holder has died is taken over at the second attempt.
        lock = SoftFileLock(f"{path}.soft", timeout=0.2)
        lock.acquire()
    return lock
