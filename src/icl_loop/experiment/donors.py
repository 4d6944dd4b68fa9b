"""Where what the donor of a yoked session was told is found again."""

from pathlib import Path

from icl_loop.core.errors import InputError
from icl_loop.experiment.sessions import Donor, Session
from icl_loop.transcripts import Header, read


class DonorNotFound(InputError):
    """What the donor of a yoked session was told cannot be had."""


def donor_of(header: Header, path: Path) -> Donor | None:
    """Return what the donor of the session in the transcript at `path` was told, None without one.

    It stands in the same folder, or, where this is a branch or was read again, in the folder of the
    experiment that it was played in.

    Raises:
        DonorNotFound: It is missing, or was told something else.
    """
    named = header.donor
    if named is None:
        return None
    name, home = Session.name_of(named.arm, named.stream), header.root.experiment
    if header.source is not None and header.branch is None:
        home = header.source.experiment
    places = [path.parent / name, path.resolve().parent.parent / home / name]
    found = [place for place in places if place.exists()]
    if not found:
        raise DonorNotFound(f"its donor {places[0]} is missing")
    for place in found:
        transcript = read(place)
        donor, source = Donor.of(transcript), transcript.header.source
        ids = {transcript.header.id, source.id if source else None}
        if donor.identity.told_sha256 == named.told_sha256 and named.id in ids:
            return Donor(named, donor.told)
    raise DonorNotFound(
        f"its donor {found[0]} is not the session, or not the words, that it was told"
    )
