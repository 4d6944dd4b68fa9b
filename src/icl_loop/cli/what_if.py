"""The command that shows what other context policies would have shown."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import track

from icl_loop.analysis.baseline import LEARNER
from icl_loop.cli.options import SavedPaths, check_folder
from icl_loop.context import Policy, context_policy
from icl_loop.core.errors import InputError
from icl_loop.terminal.console import err, out
from icl_loop.transcripts.loading import SavedSessions

if TYPE_CHECKING:
    from icl_loop.replay.what_if import RequestContents


def what_if(
    paths: SavedPaths,
    policy: Annotated[
        list[str],
        typer.Option(metavar="POLICY", help="A context policy, such as 'last(50)'; repeatable."),
    ],
    file: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Also draw it; ends in .png, .svg or .html."),
    ] = None,
    learner: Annotated[
        str, typer.Option("--baseline", metavar="LEARNER", help="Who answers in the model's place.")
    ] = LEARNER,
    window: Annotated[int, typer.Option(min=1, help="Turns in a window of the plot.")] = 20,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Print what other context policies would have shown in saved sessions; nothing is requested.

    Each session keeps its questions, replies and told words.
    A policy that has the model take notes cannot be asked about.
    """
    from icl_loop import plots  # noqa: PLC0415  the chart library takes its time
    from icl_loop.replay import what_if as whatif  # noqa: PLC0415
    from icl_loop.terminal.what_if_tables import what_if_table  # noqa: PLC0415

    if file is not None:
        plots.check_format(file)
        check_folder(file)
    policies = [context_policy(text) for text in policy]
    found = asyncio.run(_all_requests(SavedSessions.at(paths), policies, learner))
    if not found:
        raise InputError("these sessions hold no turns yet")
    rows = whatif.policy_summaries(found)
    if as_json_text:
        report = whatif.as_json(rows, learner)
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False))
    else:
        out.print(what_if_table(rows, learner))
    if file is not None:
        chart = plots.what_if_chart(whatif.turns_of(found), learner, window)
        plots.save(chart, file)
        err.print(f"plot: {file}", highlight=False, soft_wrap=True)


async def _all_requests(
    archive: SavedSessions, policies: Sequence[Policy], learner: str
) -> list["RequestContents"]:
    """Return the requests of every session that has turns: as played, then under each policy."""
    from icl_loop.replay.what_if import as_played, request_contents, shown_under  # noqa: PLC0415  as above

    found = []
    quiet = not err.is_terminal
    played = list(archive.places)
    for path in track(played, "the policies", console=err, transient=True, disable=quiet):
        saved = archive.read(path)
        found.append(await request_contents(as_played(saved), learner, played=True))
        others = [shown_under(saved, policy) for policy in policies]
        found += [await request_contents(other, learner) for other in others]
    return [each for each in found if len(each.tokens)]
