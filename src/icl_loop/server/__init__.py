"""An OpenAI-compatible endpoint over any model of ours, so that the whole path runs without a key.

It counts tokens, pretends to have a prefix cache, takes its time and fails at the rates it is told.
"""

from icl_loop.server.app import build_app
from icl_loop.server.http_server import serve, serving
from icl_loop.server.server_settings import FAULTS, RequestLog, ServerSettings, parse_faults

__all__ = [
    "FAULTS",
    "RequestLog",
    "ServerSettings",
    "build_app",
    "parse_faults",
    "serve",
    "serving",
]
