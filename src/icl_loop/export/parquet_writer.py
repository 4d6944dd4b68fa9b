"""Turns, sessions, probes and notes as Parquet files, written in parts to bound the memory used."""

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from icl_loop.export.selection import Selection
from icl_loop.export.tables import batches
from icl_loop.transcripts.tables import TABLES


def write(selection: Selection, places: dict[str, Path]) -> None:
    """Write the tables of the transcripts to `places`, by name of the table."""
    with TemporaryDirectory(dir=places["turns"].parent) as name:
        folder = Path(name)
        for number, batch in enumerate(batches(selection)):
            for table in TABLES:
                part = folder / f"{table}-{number:06}.parquet"
                getattr(batch, table).write_parquet(part, compression="lz4")
        for table in TABLES:
            parts = sorted(folder.glob(f"{table}-*.parquet"))
            pl.scan_parquet(parts).sink_parquet(places[table], compression="zstd")
