"""What every test may use."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from command_line import Command, Done
from icl_loop.cli import main

# The machines that run these tests are small and shared: a slow example is no failure.
settings.register_profile(
    "shared",
    deadline=None,
    max_examples=50,
    database=None,  # nothing is left behind, and a failure prints how to repeat it
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("shared")


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are processors: tests of waits and kills mostly wait."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def mnist() -> str:
    """Name of the real MNIST test set; skips where it has not been put."""
    folder = os.environ.get("ICL_LOOP_DATA")
    if not folder or not Path(folder, "mnist").is_dir():
        pytest.skip("ICL_LOOP_DATA names no folder that holds mnist/")
    return "mnist:test"


@pytest.fixture
def icl_loop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, called as its console script calls it."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["icl-loop", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return Done(int(exited.value.code or 0), captured.out, captured.err)

    return run
