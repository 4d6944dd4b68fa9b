"""Turns, sessions, probes and notes as CSV files without nested columns."""

from contextlib import ExitStack
from pathlib import Path

from icl_loop.export.selection import Selection
from icl_loop.export.tables import batches, flat
from icl_loop.transcripts.tables import TABLES


def write(selection: Selection, places: dict[str, Path]) -> None:
    """Write the tables of the transcripts to `places`, by name of the table."""
    with ExitStack() as stack:
        files = {table: stack.enter_context(places[table].open("wb")) for table in TABLES}
        for number, batch in enumerate(batches(selection)):
            for table, file in files.items():
                flat(getattr(batch, table)).write_csv(file, include_header=number == 0)
