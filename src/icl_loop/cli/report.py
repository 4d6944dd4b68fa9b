"""`icl-loop report`: write the HTML report."""

from pathlib import Path
from typing import Annotated

from typer import Option

from icl_loop.analysis import frame
from icl_loop.cli import options
from icl_loop.core.errors import InputError, StoppedShort, reason_of
from icl_loop.terminal.chart_baseline import chart_baseline
from icl_loop.terminal.console import print_error, print_text, this_command


def report(
    paths: options.TranscriptsOrExports,
    file: Annotated[Path, Option("-o", "--output", help="File to write.")] = Path("report.html"),
    primary: options.Primary = None,
    learner: options.ChartBaseline = None,
    no_baseline: options.NoBaseline = False,
) -> None:
    """Write one HTML page with the verdict, the charts and every turn; it works offline."""
    from icl_loop.report import page  # noqa: PLC0415  only this command needs the chart library

    if file.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{file} must end in .html")
    options.check_writable(file)
    pair = options.pair_of_arms(primary)
    turns = frame(paths)
    baseline = chart_baseline(turns, learner, wanted=not no_baseline, paths=paths)
    if baseline.note and not no_baseline:
        print_error(baseline.note)
    html = page(turns, pair, baseline, this_command(), paths=paths)
    try:
        file.write_text(html, encoding="utf-8", newline="\n")
    except OSError as error:
        raise StoppedShort(f"{file} cannot be written: {reason_of(error)}") from None
    print_text(f"report: {file}")
