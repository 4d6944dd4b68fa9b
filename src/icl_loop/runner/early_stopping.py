"""Early stopping: end a run once the streams played so far settle its primary contrast."""

import json
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from icl_loop.analysis import conclude_each, frame, probes
from icl_loop.analysis import sessions as sessions_of
from icl_loop.analysis.inference import Conclusion
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
            {
                Session.name_of(arm, stream, repeat)
                for arm in experiment.arms
                for repeat in range(experiment.repeats)
            }
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

        Every model's primary contrast and all the controls that its verdict needs must be shown by
        e-values.
        """
        self._complete.add(session.file_name)
        streams = self._leading(self._complete)
        if self.result is not None or not streams:
            return False
        paths = sorted(self._folder / name for stream in streams for name in stream)
        found = conclude_each(frame(paths), None, sessions_of(paths), probes(paths))
        judged = [each for each in found if each.primary is not None]
        if not judged or not all(map(_is_settled, judged)):
            return False
        recorded = next((each for each in judged if each.recorded), judged[0])
        if recorded.primary is not None:
            primary = recorded.primary
            self.result = EarlyStop(primary.arms, primary.differences, recorded.evidence)
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
                f"cannot write {path}: {reason_of(error)}; all turns are saved: once it can be written,"
                " run the same command again"
            ) from None
        return self.result

    def _leading(self, names: set[str]) -> list[set[str]]:
        """Return the leading streams whose sessions are all in `names`."""
        return list(takewhile(names.issuperset, self._streams))


def _is_settled(found: Conclusion) -> bool:
    """Return whether everything that the verdict needs is shown by e-values."""
    contrasts = (found.primary, *found.needed) if found.primary else ()
    return found.failed_gate is None and all(each.shown(stopped_early=True) for each in contrasts)
