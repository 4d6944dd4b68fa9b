"""Models behind an OpenAI-compatible chat-completions endpoint."""

from icl_loop.models.openai.connection import MAX_RESPONSE_BYTES
from icl_loop.models.openai.model import MAX_PAUSE_S, OpenAIModel
from icl_loop.models.openai.request_body import encode_messages

__all__ = ["MAX_PAUSE_S", "MAX_RESPONSE_BYTES", "OpenAIModel", "encode_messages"]
