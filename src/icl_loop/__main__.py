"""Run the command line: `python -m icl_loop`."""

from icl_loop.cli import main

main()
