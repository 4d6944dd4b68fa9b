"""An OpenAI-compatible endpoint over any `ChatModel`, for tests and trials without a key.

It counts tokens, simulates a prefix cache, and adds latency and faults on request.
"""

from icl_loop.server.app import build_app
from icl_loop.server.faults import FAULTS, parse_faults
from icl_loop.server.http_server import serve, serving
from icl_loop.server.request_log import RequestLog
from icl_loop.server.server_settings import ServerSettings

__all__ = [
    "FAULTS",
    "RequestLog",
    "ServerSettings",
    "build_app",
    "parse_faults",
    "serve",
    "serving",
]
