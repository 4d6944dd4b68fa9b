"""Transcripts: the append-only record of a session, format `icl-loop/transcript`.

A transcript holds one JSON object per line, each ending in a checksum and appended as the session is
played; nothing is rewritten. A request is stored as the indices of the turns it showed and the new
question, so that the file grows linearly. `docs/transcripts.md` describes the format.
"""

from icl_loop.transcripts.comparison import TIME_FIELDS, check_resumable, compare
from icl_loop.transcripts.header import (
    VERSION,
    AnalysisIdentity,
    BranchIdentity,
    DatasetIdentity,
    DonorIdentity,
    Header,
    SourceIdentity,
    identity,
)
from icl_loop.transcripts.reader import (
    Transcript,
    has_whole_line,
    read,
    read_header,
    shared_lines,
    whole_lines,
)
from icl_loop.transcripts.schema import (
    FORMAT_VERSION,
    End,
    EndStatus,
    line_fields,
    line_of,
    turns_before,
)
from icl_loop.transcripts.writer import TranscriptWriter, begin, is_begun

__all__ = [
    "FORMAT_VERSION",
    "TIME_FIELDS",
    "VERSION",
    "AnalysisIdentity",
    "BranchIdentity",
    "DatasetIdentity",
    "DonorIdentity",
    "End",
    "EndStatus",
    "Header",
    "SourceIdentity",
    "Transcript",
    "TranscriptWriter",
    "begin",
    "check_resumable",
    "compare",
    "has_whole_line",
    "identity",
    "is_begun",
    "line_fields",
    "line_of",
    "read",
    "read_header",
    "shared_lines",
    "turns_before",
    "whole_lines",
]
