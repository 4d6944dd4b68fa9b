"""What other context policies would have shown at each turn of saved sessions; nothing is asked."""

from icl_loop.replay.what_if.policy_replay import as_played, shown_under
from icl_loop.replay.what_if.policy_summary import PolicySummary, as_json, policy_summaries
from icl_loop.replay.what_if.request_contents import RequestContents, request_contents, turns_of

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
