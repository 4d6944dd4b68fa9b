"""Check the pinned versions for known vulnerabilities.

    python .ci/audit.py constraints.txt

Fails if a vulnerability is known and a fixed version exists. Without a network it says that
nothing could be checked, and does not fail.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 300


def audit(constraints: str) -> Mapping[str, Any]:
    """Return pip-audit's JSON report, or an empty one if it could not run."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", constraints, *options]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        report: Mapping[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {}
    return report


def summarise(report: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return the lines to print, and whether any vulnerability has a fixed version."""
    packages = report.get("dependencies", [])
    checked = [package for package in packages if "skip_reason" not in package]
    if not checked:
        return ["audit: no package could be checked; is there a network connection?"], False
    found = [(package, each) for package in checked for each in package.get("vulns", [])]
    lines = [
        f"{package['name']} {package['version']}: {each['id']},"
        f" fixed in {', '.join(each['fix_versions']) or 'no version yet'}"
        for package, each in found
    ]
    skipped = len(packages) - len(checked)
    lines.append(
        f"audit: {len(checked)} packages checked, {len(found)} known vulnerabilities"
        + (f"; {skipped} packages could not be checked" if skipped else "")
    )
    return lines, any(each["fix_versions"] for _, each in found)


def main() -> None:
    """Print the report; exit with 1 if an update would fix a vulnerability."""
    lines, fixable = summarise(audit(sys.argv[1]))
    print("\n".join(lines))
    sys.exit(fixable)


if __name__ == "__main__":
    main()
