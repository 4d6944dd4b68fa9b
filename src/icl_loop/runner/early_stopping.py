"""Early stopping: end a run once the streams played so far settle its primary contrast."""

import json
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from icl_loop.analysis import conclude, frame
from icl_loop.analysis import sessions as sessions_of
from icl_loop.analysis.contrasts import STOP_AT
from icl_loop.analysis.inference import verdict
from icl_loop.analysis.session_settings import EARLY_STOP_NAME
from icl_loop.core.errors import StoppedShort, reason_of
from icl_loop.experiment import Experiment, Session


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The evidence on which a run stopped early.

    Attributes:
        primary: The two arms of the primary contrast.
        differences: Late accuracy of the first arm minus the second, per stream.
        evidence: The e-process after each stream; the last value is at least `STOP_AT`.
    """

    primary: tuple[str, str]
    differences: tuple[float, ...]
    evidence: tuple[float, ...]


class EarlyStopping:
    """Tracks which sessions have ended and tests the evidence after each complete stream."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        """Watch the sessions of `experiment`, whose transcripts are in `folder`."""
        self._folder = folder
        self._streams = [
            {Session.name_of(arm, stream) for arm in experiment.arms}
            for stream in range(experiment.streams)
        ]
        self._ended: set[str] = set()
        self._complete: set[str] = set()
        self.result: EarlyStop | None = None

    def end(self, session: Session) -> int:
        """Note that a session has ended, for any reason; return the last stream that may be played."""
        self._ended.add(session.file_name)
        return len(self._leading(self._ended)) + 1

    def complete(self, session: Session) -> bool:
        """Record that a session is complete; return whether the run can stop now.

        The whole verdict must hold, including its controls, not only the primary contrast.
        """
        self._complete.add(session.file_name)
        streams = self._leading(self._complete)
        if self.result is not None or not streams:
            return False
        paths = sorted(self._folder / name for stream in streams for name in stream)
        conclusion = conclude(frame(paths), sessions=sessions_of(paths))
        primary = conclusion.primary
        if primary is None or primary.e_value < STOP_AT:
            return False
        if verdict(primary, conclusion.needed, stopped_early=True) != "learned":
            return False
        self.result = EarlyStop(primary.arms, primary.differences, conclusion.evidence)
        return True

    def save(self) -> EarlyStop | None:
        """Write the result to the folder and return it; None if the run did not stop early."""
        if self.result is None or len(self._complete) == sum(map(len, self._streams)):
            return None  # a run that completed all sessions did not stop early
        path = self._folder / EARLY_STOP_NAME
        try:
            path.write_text(json.dumps(asdict(self.result)) + "\n")
        except OSError as error:
            raise StoppedShort(
                f"cannot write {path}: {reason_of(error)}; all turns are saved, so free some space"
                " and run the same command again"
            ) from None
        return self.result

    def _leading(self, names: set[str]) -> list[set[str]]:
        """Return the leading streams whose sessions are all in `names`."""
        return list(takewhile(names.issuperset, self._streams))
