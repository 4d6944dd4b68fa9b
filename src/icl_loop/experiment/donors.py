"""Find the donor of a yoked session and the feedback it was told."""

from pathlib import Path

from icl_loop.core.errors import InputError, StoppedShort
from icl_loop.core.names import check_file_name
from icl_loop.experiment.sessions import Donor, Session
from icl_loop.transcripts import Header, read
from icl_loop.transcripts.reader import has_whole_line


class DonorNotFound(InputError):
    """The feedback of a donor cannot be found."""


class DonorUnfinished(StoppedShort):
    """The donor of a yoked session stopped before its end."""


def find_donor(header: Header, path: Path) -> Donor | None:
    """Return the donor of the session saved at `path`, None if it is not yoked.

    The donor's transcript is looked up in the same folder and, for branches and rescored
    transcripts, in the folder of the original experiment.

    Raises:
        DonorNotFound: The transcript is missing, its feedback differs from the recorded one, or
            a recorded name is no file name.
    """
    recorded = header.donor
    if recorded is None:
        return None
    name, home = (
        Session.name_of(recorded.arm, recorded.stream, recorded.repeat),
        header.root.experiment,
    )
    if header.source is not None and header.branch is None:
        home = header.source.experiment
    try:
        check_file_name(name, f"its donor {name!r} ")
        check_file_name(home, f"its experiment {home!r} ")
    except InputError as error:
        raise DonorNotFound(str(error)) from None
    places = [path.parent / name, path.resolve().parent.parent / home / name]
    found = [place for place in places if place.exists()]
    if not found:
        raise DonorNotFound(f"its donor {places[0]} is missing")
    for place in found:
        transcript = read(place)
        donor, source = Donor.of(transcript), transcript.header.source
        ids = {transcript.header.id, source.id if source else None}
        if donor.identity.told_sha256 == recorded.told_sha256 and recorded.id in ids:
            return Donor(recorded, donor.told)
    raise DonorNotFound(f"its donor {found[0]} is another session, or was told something else")


def read_donor(path: Path, turns: int) -> Donor:
    """Return the donor saved at `path`; raise StoppedShort if it lacks some of `turns` turns."""
    transcript = read(path) if has_whole_line(path) else None
    if transcript is None or transcript.end is None:
        raise DonorUnfinished(f"its donor {path.name} is missing or unfinished")
    played = len(transcript.turns)
    if transcript.end.status != "context_full" and played < turns:
        raise StoppedShort(f"its donor {path.name} ended after {played} of {turns} turns")
    return Donor.of(transcript)
