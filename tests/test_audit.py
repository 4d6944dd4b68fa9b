"""The audit fails only for a known vulnerability that an update would fix."""

from importlib import util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parent.parent / ".ci" / "audit.py"
SAFE = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}


def load_script() -> Any:  # noqa: ANN401  a script has no typed module
    """Import the script."""
    spec = util.spec_from_file_location("audit", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vulnerable(*fixes: str) -> dict[str, object]:
    """Return a package with a known vulnerability that these versions fix."""
    return {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": list(fixes)}]}


@pytest.mark.parametrize(
    ("packages", "line", "fails"),
    [
        ([], "network connection", False),
        ([SKIPPED], "network connection", False),
        ([SAFE], "1 packages checked, 0 known", False),
        ([SAFE, SKIPPED], "1 packages could not be checked", False),
        ([SAFE, vulnerable()], "fixed in no version yet", False),
        ([SAFE, vulnerable("3")], "c 2: CVE-1, fixed in 3", True),
    ],
)
def test_only_fixable_vulnerabilities_fail(
    packages: list[dict[str, object]], line: str, *, fails: bool
) -> None:
    """A vulnerability with a fixed version fails the audit; a missing network does not."""
    lines, fixable = load_script().summarise({"dependencies": packages})
    assert line in "\n".join(lines)
    assert fixable is fails
