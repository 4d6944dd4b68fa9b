"""Reading TOML files written by people."""

import re
import tomllib
from typing import Any

from icl_loop.core.errors import InputError

MAX_BYTES = 2**20
"""Most bytes of a file."""
MAX_KEY_PARTS = 100
"""Most parts of a dotted key: `tomllib` takes time that grows with their square."""

_REASONS = {
    "Cannot overwrite": "this key has a value already",
    "Duplicate inline": "this key has a value already",
    "Cannot declare": "this table was declared before",
    "Cannot mutate": "this table was declared before",
    "Invalid value": "a value is missing or wrong; texts need quotation marks",
    "Illegal character": "this character is not allowed; perhaps a quotation mark is missing",
    "Unterminated": "a quotation mark is missing",
    "Unclosed": "a bracket is missing",
    "Expected ']": "a bracket is missing",
    'Expected "': "a quotation mark is missing",
    "Expected newline": "there is more than one value in this line",
    "Expected '='": "there is no equals sign after the key",
    "Unescaped": "a backslash must be written twice, or the text put in single quotation marks",
}
"""Plain words for the errors of `tomllib`, by their beginning."""
_PLACE = re.compile(r"\(at (?:(line \d+, column \d+)|end of document)\)")
_LONG_KEY = re.compile(rb"(?:[\w\"'-]{1,99}[ \t]?\.[ \t]?){%d}" % MAX_KEY_PARTS)


def parse_toml(data: bytes, source: str) -> dict[str, Any]:
    """Return the content of a TOML file; error messages name it `source`.

    Raises:
        InputError: The file is not valid TOML.
    """
    if _LONG_KEY.search(data):
        raise InputError(f"{source} has a key of more than {MAX_KEY_PARTS} parts")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        reason = _in_plain_words(str(error))
    except ValueError:
        reason = "a whole number is too long"
    except RecursionError:
        reason = "it is nested too deeply"
    raise InputError(f"{source} is not valid TOML: {reason}")


def _in_plain_words(message: str) -> str:
    """Return place and reason of an error of `tomllib`."""
    place = _PLACE.search(message)
    where = (place and place[1]) or "at the end"
    reasons = (reason for start, reason in _REASONS.items() if message.startswith(start))
    return f"{where}: {next(reasons, 'this is not understood')}"
