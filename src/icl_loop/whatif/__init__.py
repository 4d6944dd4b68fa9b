"""What other context policies would have shown at each turn of saved sessions; nothing is asked."""

from icl_loop.whatif.chart import outlook_chart
from icl_loop.whatif.outlook import Outlook, as_json, outlooks
from icl_loop.whatif.requests import Requests, requests_of, turns_of
from icl_loop.whatif.sessions import as_played, shown_under
from icl_loop.whatif.table import outlook_table

__all__ = [
    "Outlook",
    "Requests",
    "as_json",
    "as_played",
    "outlook_chart",
    "outlook_table",
    "outlooks",
    "requests_of",
    "shown_under",
    "turns_of",
]
