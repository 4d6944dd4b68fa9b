"""Values embedded in the page: JSON, compressed and encoded without special characters."""

import base64
import gzip
import json
from typing import Any

_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def packed(value: object) -> str:
    """Return `value` as gzipped JSON in base64, which is safe anywhere in HTML."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def unpacked(text: str) -> Any:  # noqa: ANN401  any JSON value
    """Return the value passed to `packed`."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def in_script(value: object) -> str:
    """Return `value` as JSON that cannot close the surrounding script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)
