"""An experiment: arms, and the streams that each of them plays."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from icl_loop.context import compares_images, notes_policy
from icl_loop.core.errors import InputError
from icl_loop.core.messages import user
from icl_loop.experiment.sessions import Session
from icl_loop.experiment.settings import AnalysisSettings, LimitSettings, PriceSettings, Settings
from icl_loop.transcripts import AnalysisIdentity


@dataclass(frozen=True)
class Experiment:
    """Arms and streams: every arm plays the same streams.

    Attributes:
        name: Names the folder of its transcripts.
        turns: Length of each session.
        streams: Sessions per arm.
        seed: What all randomness is keyed by.
        arms: Settings by the name of the arm, in the order of the file.
        analysis: What is looked at first.
        limits: How an endpoint is asked.
        price: What tokens cost, if not the list price.
        branches: Its sessions, where they are branches of saved ones.
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

    def sessions(self) -> Iterator[Session]:
        """Yield the sessions, stream by stream, so that a run cut short has whole comparisons."""
        if self.branches:
            yield from self.branches
            return
        primary = self.analysis.primary
        analysis = AnalysisIdentity(
            primary=(primary[0], primary[1]) if primary else None,
            margin=self.analysis.margin,
            streams=self.streams,
        )
        for stream in range(self.streams):
            for arm, settings in self.arms.items():
                yield Session(self.name, arm, stream, self.turns, self.seed, settings, analysis)

    def donor_of(self, session: Session) -> tuple[str, int] | None:
        """Return arm and stream of the donor of a yoked session: the next stream, cyclically.

        A session that has its donor needs none.
        """
        arm = session.settings.feedback.donor
        return (
            None
            if arm is None or session.donor is not None
            else (arm, (session.stream + 1) % self.streams)
        )

    def count(self) -> int:
        """Return how many sessions there are."""
        return len(self.branches) or self.streams * len(self.arms)

    def check(self, on_session: Callable[[], None] = lambda: None) -> None:
        """Raise InputError if a session could not be played: data, window, labels.

        This opens the data sets, which may download them, and draws the streams; `on_session` is
        called after each of the sessions.
        """
        for session in self.sessions():
            room = session.window.left_after(session.task.system, session.task.question(0))
            if room < 0:
                raise InputError(
                    f"arm {session.arm!r}: model.context_window ="
                    f" {session.window.tokens} leaves no room for one question: it needs"
                    f" {session.window.tokens - room} tokens with context.reserve ="
                    f" {session.window.reserve}"
                )
            _check_policy(session)
            on_session()


def _check_policy(session: Session) -> None:
    """Raise InputError if the policy asks for what the session does not have."""
    policy, task, place = session.policy, session.task, f"arm {session.arm!r}, context.policy"
    if compares_images(policy) and task.encoding.modality != "picture":
        raise InputError(
            f"{place} = {policy}: nearest compares pictures, and a {task.encoding.modality} is none"
        )
    notes = notes_policy(policy)
    if notes is None:
        return
    if task.prompts.notes is None:
        raise InputError(
            f"{place} = {policy}: the prompt set {session.settings.task.prompts} has no table [notes]"
        )
    asking = user(task.prompts.notes.ask(notes.tokens))
    room = session.window.left_after(task.system, task.question(0), asking) - notes.tokens
    if room < 0:
        raise InputError(
            f"{place} = {policy}: model.context_window = {session.window.tokens} leaves no room"
            f" for such notes: {-room} tokens are missing"
        )
