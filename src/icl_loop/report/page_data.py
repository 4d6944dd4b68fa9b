"""Values as text that stands anywhere in a page: JSON, compressed, in letters and digits."""

import base64
import gzip
import json
from typing import Any

_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


def packed(value: object) -> str:
    """Return `value` as JSON in base64 of gzip, in which no mark means anything to a browser."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def unpacked(text: str) -> Any:  # noqa: ANN401  whatever was packed
    """Return what was packed."""
    return json.loads(gzip.decompress(base64.b64decode(text)))


def in_script(value: object) -> str:
    """Return `value` as JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)
