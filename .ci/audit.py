"""Look the pinned versions up among known vulnerabilities; fail where one is known and mended.

    python .ci/audit.py constraints.txt

Without a network nothing can be looked up: that is said, and is no failure.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

MOST_S = 300


def asked(constraints: str) -> Mapping[str, Any]:
    """Return what pip-audit reports as JSON, an empty table if it could not report."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", constraints, *options]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=MOST_S)
        report: Mapping[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {}
    return report


def said(report: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return what a report comes to, line by line, and whether a vulnerability has a remedy."""
    packages = report.get("dependencies", [])
    looked_up = [package for package in packages if "skip_reason" not in package]
    found = [(package, each) for package in looked_up for each in package.get("vulns", [])]
    lines = [
        f"{package['name']} {package['version']}: {each['id']},"
        f" mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for package, each in found
    ]
    if not looked_up:
        return ["audit: no package could be looked up; is there no network?"], False
    unseen = len(packages) - len(looked_up)
    lines.append(
        f"audit: {len(looked_up)} packages looked up, {len(found)} vulnerabilities known"
        + (f"; {unseen} packages could not be looked up" if unseen else "")
    )
    return lines, any(each["fix_versions"] for _, each in found)


def main() -> None:
    """Print what was found; exit with 1 where an update would mend it."""
    lines, failed = said(asked(sys.argv[1]))
    print("\n".join(lines))
    sys.exit(failed)


if __name__ == "__main__":
    main()
