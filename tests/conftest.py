"""Settings and fixtures for all tests."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from command_line import Command, Done
from icl_loop.cli import main

# Test machines may be slow and shared, so a slow example is not a failure.
settings.register_profile(
    "shared",
    deadline=None,
    max_examples=50,
    database=None,  # leave no files; a failure prints how to reproduce it
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("shared")


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are processors, because some tests mostly wait."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def mnist() -> str:
    """Name of the real MNIST test set; skips the test if it is missing."""
    folder = os.environ.get("ICL_LOOP_DATA")
    if not folder or not Path(folder, "mnist").is_dir():
        pytest.skip("ICL_LOOP_DATA is not set to a folder with mnist/")
    return "mnist:test"


@pytest.fixture
def icl_loop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process, as its console script does."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["icl-loop", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return Done(int(exited.value.code or 0), captured.out, captured.err)

    return run
