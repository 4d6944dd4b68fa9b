"""The laws of the audit: what is known and mended fails, what cannot be looked up is said."""

from importlib import util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parent.parent / ".ci" / "audit.py"
SOUND = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}


def audit() -> Any:  # noqa: ANN401  a script is no module that types are known of
    """Return the script as a module."""
    spec = util.spec_from_file_location("audit", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def holed(*fixes: str) -> dict[str, object]:
    """Return a package with a known vulnerability, mended in these versions."""
    return {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": list(fixes)}]}


@pytest.mark.parametrize(
    ("packages", "says", "fails"),
    [
        ([], "no network", False),
        ([SKIPPED], "no network", False),
        ([SOUND], "1 packages looked up, 0 vulnerabilities", False),
        ([SOUND, SKIPPED], "1 packages could not be looked up", False),
        ([SOUND, holed()], "mended in no version yet", False),
        ([SOUND, holed("3")], "c 2: CVE-1, mended in 3", True),
    ],
)
def test_a_known_fault_with_a_remedy_fails(
    packages: list[dict[str, object]], says: str, *, fails: bool
) -> None:
    """Only a vulnerability that an update would mend is a failure; want of a network is none."""
    lines, failed = audit().said({"dependencies": packages})
    assert says in "\n".join(lines)
    assert failed is fails
