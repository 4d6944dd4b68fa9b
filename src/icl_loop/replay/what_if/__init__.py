"""What other context policies would have shown in saved sessions; no request is made."""

from icl_loop.replay.what_if.policy_replay import as_played, shown_under
from icl_loop.replay.what_if.policy_summary import (
    PolicySummary,
    RequestContents,
    as_json,
    policy_summaries,
    request_contents,
    turns_of,
)

__all__ = [
    "PolicySummary",
    "RequestContents",
    "as_json",
    "as_played",
    "policy_summaries",
    "request_contents",
    "shown_under",
    "turns_of",
]
