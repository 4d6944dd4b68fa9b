"""Models behind an OpenAI-compatible chat-completions endpoint: one request, one reply.

The `openai` client holds addresses, keys and connections. The body of a request is not built
through it: it walks every message of every request again, while here each message is written out
once in its life and a body is those pieces joined.
"""

from icl_loop.models.openai.connection import MAX_REPLY_BYTES
from icl_loop.models.openai.model import LONGEST_PAUSE_S, OpenAIModel
from icl_loop.models.openai.request_body import JOIN_JSON, wire

__all__ = [
    "JOIN_JSON",
    "LONGEST_PAUSE_S",
    "MAX_REPLY_BYTES",
    "OpenAIModel",
    "wire",
]
