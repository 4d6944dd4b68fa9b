"""Transcripts: the append-only record of a session, format `icl-loop/transcript`.

A transcript holds one JSON object per line, each ending in a checksum and appended as the session is
played; nothing is rewritten. A request is stored as the indices of the turns it showed and the new
question, so that the file grows linearly. `docs/transcripts.md` describes the format.
"""

from icl_loop.transcripts.header import Header
from icl_loop.transcripts.reader import Transcript, read, read_header
from icl_loop.transcripts.schema import End
from icl_loop.transcripts.writer import TranscriptWriter

__all__ = ["End", "Header", "Transcript", "TranscriptWriter", "read", "read_header"]
