"""Reading TOML files written by people."""

import re
import tomllib
from typing import Any

from icl_loop.core.errors import InputError

MAX_BYTES = 2**20
MAX_KEY_PARTS = 100
"""Most parts of a dotted key: `tomllib` takes time that grows with their square."""

_LONG_KEY = re.compile(rb"(?:[\w\"'-]{1,99}[ \t]?\.[ \t]?){%d}" % MAX_KEY_PARTS)


def parse_toml(data: bytes, source: str) -> dict[str, Any]:
    """Return the content of a TOML file; error messages name it `source`.

    Raises:
        InputError: The file is not valid TOML, or is too large.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{source} is larger than {MAX_BYTES // 2**20} MiB")
    if _LONG_KEY.search(data):
        raise InputError(f"{source} has a key of more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
    except RecursionError:
        reason = "it is nested too deeply"
    raise InputError(f"{source} is not valid TOML: {reason}")
