"""The command line: arguments, exit codes, printing."""

import asyncio
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Annotated, NoReturn

import polars as pl
import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from icl_loop import planning, screen, sheet
from icl_loop.analysis import (
    ArmMetrics,
    as_json,
    checkpoint_fields,
    checkpoints,
    conclude_each,
    find,
    frame,
    joined,
    measure,
    metrics_fields,
    nearest_pictures,
    probes,
    sessions,
    summarize,
    warnings,
)
from icl_loop.datasets import open_dataset
from icl_loop.encodings import ENCODINGS, encoding, fitting, prepared
from icl_loop.errors import IclLoopError, InputError, TranscriptError, nearest
from icl_loop.experiment import load
from icl_loop.messages import Image
from icl_loop.models import BUILT_IN, is_built_in, open_model
from icl_loop.runner import DEFAULT_CONCURRENCY, Run, RunResult, verify
from icl_loop.shadow import ArmShadow, beside, shadows
from icl_loop.transcripts import read
from icl_loop.verdict import metrics_table, probes_table, shadow_table, verdict_lines

MOST_PICTURES = 50_000
"""Most turns of which the nearest pictures are sought: that takes about 10 s."""
DONE, STOPPED_SHORT, WRONG_INPUT = 0, 1, 2

app = typer.Typer(
    help="Does a language model, inside one long conversation and with frozen weights, learn from"
    " being told right or wrong? Exit codes: 0 done, 1 stopped short (what is saved is kept),"
    " 2 the input was wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


out = _console(stderr=False)
err = _console(stderr=True)

Paths = Annotated[list[Path], typer.Argument(help="Transcripts, or folders that hold them.")]


ExperimentFile = Annotated[Path, typer.Argument(help="The experiment's TOML file.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Lay a setting over the file; repeatable."),
]
Streams = Annotated[int | None, typer.Option(help="Sessions per arm.")]
Turns = Annotated[int | None, typer.Option(help="Turns per session.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Sessions that play at once.")]


@app.command()
def run(
    experiment: ExperimentFile,
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder that holds the experiments' own folders.")
    ] = Path("transcripts"),
    changes: Changes = None,
    streams: Streams = None,
    turns: Turns = None,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    max_usd: Annotated[
        float | None,
        typer.Option(
            min=0, help="Dollars the experiment may cost in all, saved sessions included."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens it may take in all, prompts and replies.")
    ] = None,
    stop_early: Annotated[
        bool,
        typer.Option(
            "--stop-early",
            help="Play no more streams once those played are evidence enough (e-process, E >= 20).",
        ),
    ] = False,
) -> None:
    """Play an experiment, or go on with it: complete sessions are skipped, others resumed."""
    made = load(experiment, _laid_over(changes, streams, turns))
    made.check()
    playing = Run(
        made,
        out_dir,
        concurrency,
        max_usd=max_usd,
        max_tokens=max_tokens,
        stop_early=stop_early,
    )
    with screen.watch(made, err, playing.meter) as watcher:
        playing.on_turn = watcher.turn
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            result = runner.run(_until_interrupted(playing, watcher.say))
    _close(playing, result)


@app.command()
def plan(
    experiment: ExperimentFile,
    changes: Changes = None,
    streams: Streams = None,
    turns: Turns = None,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that a request lasts.")] = 1.0,
    concurrency: Concurrency = DEFAULT_CONCURRENCY,
    reply_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of a reply, where it says more than its final line.")
    ] = 0,
    advice: Annotated[
        bool,
        typer.Option(help="Try changes if the design cannot show learning; takes longer."),
    ] = True,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what an experiment takes and what it can show, before anything is asked or spent."""
    made = load(experiment, _laid_over(changes, streams, turns))
    with sheet.Trying(err) as trying:
        planned = asyncio.run(
            planning.plan(
                made,
                latency_s=latency,
                concurrency=concurrency,
                reply_tokens=reply_tokens,
                advised=advice,
                on_turn=trying.turn,
            )
        )
    if as_json_text:
        typer.echo(json.dumps(planning.as_json(planned), ensure_ascii=False, indent=2))
        return
    out.print(sheet.expense_table(planned))
    out.print(sheet.exposure_table(planned))
    for sentence in sheet.sentences(planned):
        out.print(screen.printable(sentence), highlight=False, markup=False)


def _laid_over(changes: list[str] | None, streams: int | None, turns: int | None) -> list[str]:
    """Return all changes of an experiment file as `--set` takes them."""
    laid_over = list(changes or [])
    laid_over += [f"streams={streams}"] if streams is not None else []
    laid_over += [f"turns={turns}"] if turns is not None else []
    return laid_over


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the faster event loop where the platform has it."""
    try:
        import uvloop  # noqa: PLC0415  it is not there on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _until_interrupted(playing: Run, say: Callable[[str], None]) -> RunResult | None:
    """Play; the first signal lets turns in flight finish, the second drops them (None)."""
    task = asyncio.ensure_future(playing.play())

    def interrupt() -> None:
        if playing.stopping:
            task.cancel()
        else:
            say("stopping: the turns in flight are finished and saved; once more drops them")
            playing.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, interrupt)
        except NotImplementedError:
            break  # Windows has no such handlers; Ctrl-C then drops the turns in flight
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _close(playing: Run, result: RunResult | None) -> None:
    """Print what came of the run; exit with 1 if it stopped short."""
    paths = list(result.paths) if result else []
    with suppress(TranscriptError):  # nothing was answered yet, so there is nothing to sum up
        turns = frame(paths)
        _print_summary(turns, None, _measured(turns))
    if result is not None and result.stops:
        err.print(screen.stops_table(result.stops))
    if result is not None and result.early is not None:
        out.print(
            f"stopped early: after {len(result.early.differences)} streams the evidence that"
            f" {result.early.primary[0]} is above {result.early.primary[1]} is"
            f" E = {result.early.evidence[-1]:.1f}, at least 20",
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"transcripts: {playing.folder} ({len(paths)} sessions)", highlight=False)
    if result is not None and result.complete:
        out.print(f"see it:      icl-loop plot {shlex.quote(str(playing.folder))}", highlight=False)
        return
    err.print(
        f"stopped short; everything answered is saved. Go on with: {_this_command()}",
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(STOPPED_SHORT)


def _this_command() -> str:
    return shlex.join(["icl-loop", *sys.argv[1:]])


def _print_summary(
    turns: pl.DataFrame,
    primary: tuple[str, str] | None,
    metrics: Sequence[ArmMetrics],
    shaded: Sequence[ArmShadow] = (),
) -> None:
    summaries = summarize(turns)
    paths = [Path(path) for path in turns["path"].unique(maintain_order=True)]
    conclusions = conclude_each(turns, primary, sessions(paths))
    out.print(screen.summary_table(summaries))
    out.print(metrics_table(metrics))
    if asked := checkpoints(probes(paths)):
        out.print(probes_table(asked))
    if shaded:
        out.print(shadow_table(shaded))
    for warning in warnings(summaries):
        out.print(f"note: {screen.printable(warning)}", highlight=False, markup=False)
    for conclusion in conclusions:
        if len(conclusions) > 1:
            out.rule(screen.printable(conclusion.experiment), align="left")
        for line in verdict_lines(conclusion):
            out.print(line, soft_wrap=isinstance(line, Text))


@app.command()
def replay(
    path: Annotated[Path, typer.Argument(help="A transcript, or a folder of them.")],
    check: Annotated[
        bool,
        typer.Option(
            "--verify", help="Prove that every request, judgement and told word can be re-derived."
        ),
    ] = False,
    start: Annotated[int, typer.Option("--from", min=0, help="First turn to show.")] = 0,
    delay: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds between turns; 0.5 in a terminal, else none."),
    ] = None,
) -> None:
    """Watch a saved session turn by turn, or prove that it replays."""
    files = find([path])
    if check:
        _verify_all(files)
        return
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:6]) + (", …" if len(files) > 6 else "")
        raise InputError(f"{path} holds {len(files)} sessions; name one of them: {names}")
    transcript = read(files[0])
    if start and start >= len(transcript.turns):
        raise InputError(f"--from {start}: the session has turns 0 to {len(transcript.turns) - 1}")
    show = screen.Replay(transcript, colour=out.color_system is not None)
    pause = delay if delay is not None else 0.5 * out.is_terminal
    out.print(show.heading())
    for index in range(start, len(transcript.turns)):
        out.print(show.turn(index))
        time.sleep(pause)


def _verify_all(files: list[Path]) -> None:
    codes = []
    for file in files:
        try:
            turns = asyncio.run(verify(read(file)))
        except IclLoopError as error:
            codes.append(_exit_code(error))
            _complain(f"{file}: {error}")
        else:
            out.print(f"{file}: {turns} turns replay", highlight=False, soft_wrap=True)
    if codes:
        _complain(f"{len(codes)} of {len(files)} sessions do not replay")
        raise typer.Exit(max(codes))


@app.command()
def analyze(
    paths: Paths,
    primary: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST,SECOND",
            help="Arms of the primary contrast, if not those that were recorded.",
        ),
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option(
            "--shadow",
            metavar="LEARNER",
            help="Also answer in each model's place with a reference learner, such as"
            " reference/nearest, shown exactly what the model was shown.",
        ),
    ] = None,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Print accuracy of each arm, the contrasts between them, the ladder of nulls, the verdict."""
    pair = _pair_of_arms(primary)
    turns = frame(paths)
    shadowed = None if learner is None else _shadows_of(turns, learner)
    shaded = [] if shadowed is None else beside(turns, shadowed, sessions(paths), str(learner))
    metrics = _measured(turns)
    if not as_json_text:
        _print_summary(turns, pair, metrics, shaded)
        return
    summaries = summarize(turns)
    asked = checkpoints(probes(map(Path, turns["path"].unique(maintain_order=True))))
    concluded = joined(conclude_each(turns, pair, sessions(paths)))
    report = {
        "arms": [
            {
                **as_json(summary),
                "metrics": metrics_fields(measured),
                "shadow": arm_shadow.fields() if arm_shadow else None,
                "probes": [
                    checkpoint_fields(each)
                    for each in asked
                    if (each.experiment, each.arm) == (summary.experiment, summary.arm)
                ],
            }
            for summary, measured, arm_shadow in zip(
                summaries, metrics, shaded or repeat(None, len(summaries)), strict=True
            )
        ],
        **concluded,
        "warnings": [*warnings(summaries), *concluded["warnings"]],
    }
    typer.echo(json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False))


def _measured(turns: pl.DataFrame) -> list[ArmMetrics]:
    """Return the metrics of every arm; the nearest pictures are sought unless there are too many."""
    paths = [Path(path) for path in turns["path"].unique(maintain_order=True)]
    return measure(turns, nearest_pictures(paths) if turns.height <= MOST_PICTURES else {})


def _shadows_of(turns: pl.DataFrame, learner: str) -> pl.DataFrame:
    """Return the shadow of every turn, saying how far it is on a terminal."""
    paths = turns["path"].unique(maintain_order=True).to_list()
    watched = track(paths, "the shadow", console=err, transient=True, disable=not err.is_terminal)
    return asyncio.run(shadows(map(Path, watched), learner))


def _pair_of_arms(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    arms = [arm.strip() for arm in text.split(",")]
    if len(arms) != 2 or not all(arms):
        raise InputError(f"--primary takes two arms such as feedback,yoked, got {text!r}")
    return arms[0], arms[1]


@app.command()
def plot(
    paths: Paths,
    file: Annotated[
        Path, typer.Option("-o", "--output", help="Where to; ends in .png, .svg or .html.")
    ] = Path("learning-curve.png"),
    window: Annotated[int, typer.Option(min=1, help="Turns in a window.")] = 20,
) -> None:
    """Draw accuracy over turns: a line and a band for each arm, thin lines for sessions, chance."""
    from icl_loop import plots  # noqa: PLC0415  only this command needs the chart library

    plots.check_format(file)
    plots.save(plots.curve_chart(frame(paths), window), file)
    out.print(f"plot: {file}", highlight=False, soft_wrap=True)


@app.command()
def sample(
    dataset: Annotated[
        str, typer.Argument(help="digits, mnist:test, folder:DIR, iris, wine, csv:FILE, …")
    ],
    index: Annotated[int, typer.Option(min=0, help="Which sample.")] = 0,
    encoding_name: Annotated[
        str | None,
        typer.Option(
            "--encoding",
            help=f"One of {', '.join(ENCODINGS)}; grid for pictures if none is named.",
        ),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of a picture in pixels.")] = 20,
    file: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to, if not to the terminal.")
    ] = None,
) -> None:
    """Print a sample as a model would be shown it, and nothing else."""
    chosen = open_dataset(dataset)[index]
    usual = "grid" if chosen.modality == "picture" else fitting(chosen.modality)[0]
    how = encoding(usual if encoding_name is None else encoding_name)
    shown = how.encode(prepared(chosen, how, size))
    if file is not None:
        _keep(shown, file)
    elif isinstance(shown, str):
        typer.echo(shown)
    elif sys.stdout.isatty():
        typer.echo(f"a PNG file of {len(shown.png):,} bytes, {size} x {size} pixels; -o keeps it")
    else:
        typer.echo(shown.png, nl=False)
    if sys.stderr.isatty():
        told = screen.printable(f"{chosen.id}, label {chosen.label}")
        err.print(told, style="dim", highlight=False, markup=False)


def _keep(shown: str | Image, file: Path) -> None:
    """Write what a model would be shown to a file."""
    data = shown.png if isinstance(shown, Image) else shown.encode() + b"\n"
    try:
        file.write_bytes(data)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None


@app.command()
def serve(
    model: Annotated[
        str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")
    ] = "reference/nearest",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    latency: Annotated[float, typer.Option(min=0, help="Seconds before each answer.")] = 0.0,
    fail: Annotated[
        str, typer.Option(help="Faults by rate, such as 429=0.1,500=0.05,reset=0.02,slow=0.01.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Keys answers and faults.")] = 0,
    context_window: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest prompt that is answered.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable that holds the key to ask for.")
    ] = None,
) -> None:
    """Serve a model of ours as an OpenAI-compatible endpoint, to try the whole path without a key."""
    try:
        from icl_loop import server  # noqa: PLC0415  an optional extra
    except ImportError:
        raise InputError("serving needs the extra [serve]: pip install 'icl-loop[serve]'") from None
    settings = server.ServerSettings(
        latency_s=latency,
        faults=server.parse_faults(fail),
        seed=seed,
        context_window=context_window,
        api_key=_key_to_ask_for(api_key_env),
    )
    if not is_built_in(model):
        raise InputError(
            f"only models of ours are served, not {model!r}: {nearest(model, BUILT_IN)}"
        )
    app = server.build_app({model: open_model(model, seed=seed)}, settings=settings)
    exposed = host not in ("127.0.0.1", "::1", "localhost")
    if exposed:
        _complain(f"warning: {host} can be reached by other machines")

    def ready(base_url: str) -> None:
        out.print(f"serving {model} at {base_url}; Ctrl-C ends it", highlight=False, soft_wrap=True)
        out.print(
            f"try: icl-loop run experiments/quickstart.toml --set name=served"
            f" --set model.name={model} --set model.base_url={base_url}",
            highlight=False,
            soft_wrap=True,
        )

    server.serve(app, host, port, expose=exposed, ready=ready)


def _key_to_ask_for(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"the environment variable {variable} holds no key")
    return key


def main() -> NoReturn:
    """Run the command line and exit with the code that says how it went."""
    try:
        app()
    except IclLoopError as error:
        _complain(f"{'error' if isinstance(error, InputError) else 'stopped'}: {error}")
        sys.exit(_exit_code(error))
    sys.exit(DONE)


def _exit_code(error: IclLoopError) -> int:
    return WRONG_INPUT if isinstance(error, InputError) else STOPPED_SHORT


def _complain(text: str) -> None:
    err.print(screen.printable(text), style="red", markup=False, highlight=False, soft_wrap=True)
