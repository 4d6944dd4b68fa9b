"""Transcripts: the append-only record of a session, format `icl-loop/transcript` version 1.

One JSON object a line, sealed with a checksum, flushed to the disk turn by turn; nothing is ever
rewritten. A request is stored as the turns it showed plus the new question, so the file grows
linearly.
"""

from icl_loop.transcripts.comparison import TIME_FIELDS, check_resumable, compare
from icl_loop.transcripts.fields import event_fields, note_fields, probe_fields, turn_fields
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
from icl_loop.transcripts.lines import End, EndStatus, line_of
from icl_loop.transcripts.reader import (
    Transcript,
    has_whole_line,
    read,
    read_header,
    shared_lines,
    turns_before,
    whole_lines,
)
from icl_loop.transcripts.writer import TranscriptWriter, begin, is_begun

__all__ = [
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
    "event_fields",
    "has_whole_line",
    "identity",
    "is_begun",
    "line_of",
    "note_fields",
    "probe_fields",
    "read",
    "read_header",
    "shared_lines",
    "turn_fields",
    "turns_before",
    "whole_lines",
]
