"""TOML files, which people write: read with bounds, refused in words."""

import re
import tomllib
from typing import Any

from icl_loop.core.errors import InputError

MAX_BYTES = 2**20
MAX_KEYS = 100
"""The largest file that is read, and the most keys joined by dots; `tomllib` takes time in the square."""

_DOTTED = re.compile(rb"(?:[\w\"'-]{1,99}[ \t]?\.[ \t]?){%d}" % MAX_KEYS)


def parsed(data: bytes, where: str) -> dict[str, Any]:
    """Return the table that a TOML file holds; `where` names it in errors.

    Raises:
        InputError: It is not TOML, or none that a person would write.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{where} is not TOML: it is larger than {MAX_BYTES // 2**20} MiB")
    if _DOTTED.search(data):
        raise InputError(f"{where} is not TOML: more than {MAX_KEYS} keys are joined by dots")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not TOML: byte {error.start + 1} is no UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{where} is not TOML: it is nested too deeply") from None
