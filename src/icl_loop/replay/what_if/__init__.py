"""What other context policies would have shown at each turn of saved sessions; nothing is asked."""

from icl_loop.replay.what_if.policy_replay import as_played, shown_under
from icl_loop.replay.what_if.policy_summary import Outlook, as_json, outlooks
from icl_loop.replay.what_if.request_contents import Requests, requests_of, turns_of

__all__ = [
    "Outlook",
    "Requests",
    "as_json",
    "as_played",
    "outlooks",
    "requests_of",
    "shown_under",
    "turns_of",
]
