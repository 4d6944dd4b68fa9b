"""What notebooks and scripts use: play an experiment, load saved runs, and look at them."""

from icl_loop.api.playing import run, run_async
from icl_loop.api.saved_run import SavedRun, Verdict, load_run

__all__ = ["SavedRun", "Verdict", "load_run", "run", "run_async"]
