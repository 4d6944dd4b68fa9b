"""Figures about the code itself: its size, the files one turn passes through, random sentences.

python benchmarks/structure.py size [CHECKOUT]     # another checkout to compare with
python benchmarks/structure.py turn [CHECKOUT]
python benchmarks/structure.py sentences [SEED]
"""

import ast
import asyncio
import random
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parents[1]
LONG = 350
SENTENCES = 30
STEADY = 40
"""The turn that is traced: by then every cache is warm."""
SETTINGS = {
    "name": "turn",
    "turns": 60,
    "streams": 1,
    "model": {"name": "simulated/chance"},
    "context": {"policy": "last(20)"},
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function) -> int:
    """Return the lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def code_lines(source: str) -> int:
    """Return the lines that are neither blank, nor a comment, nor part of a docstring."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        number not in prose and bool(line.strip()) and not line.strip().startswith("#")
        for number, line in lines
    )


def size(checkout: Path) -> None:
    """Print the size of the source and of its parts."""
    package = checkout / "src" / "icl_loop"
    sources = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    tests = [path.read_text() for path in (checkout / "tests").rglob("*.py")]
    nodes = [node for text in sources.values() for node in ast.walk(ast.parse(text))]
    lengths = [body_lines(node) for node in nodes if isinstance(node, Function)]
    lines = {path: len(text.splitlines()) for path, text in sources.items()}
    total = sum(lines.values())
    tracked = subprocess.run(
        ["git", "ls-files", "src/icl_loop"],  # noqa: S607
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    entries = {line.split("/")[2] for line in tracked.stdout.split()}
    long = {str(path.relative_to(package)): n for path, n in lines.items() if n > LONG}
    print(f"top-level entries        {len(entries)}")
    print(f"source files             {len(sources)}")
    print(f"source lines             {total:,}")
    print(f"  of code                {sum(map(code_lines, sources.values())):,}")
    print(f"classes                  {sum(isinstance(node, ast.ClassDef) for node in nodes)}")
    print(
        f"functions                {len(lengths):,}: median {median(lengths):.0f} lines,"
        f" 90th percentile {quantiles(lengths, n=10)[-1]:.0f}, longest {max(lengths)}"
    )
    print(
        f"files over {LONG} lines      {', '.join(f'{k} ({v})' for k, v in long.items()) or 'none'}"
    )
    print(f"test lines per line      {sum(len(t.splitlines()) for t in tests) / total:.2f}")


async def _played() -> list[tuple[str, str]]:
    """Play a session and return the file and function of every call during one steady turn."""
    from icl_loop import Run, parse  # noqa: PLC0415  the checkout is chosen by then

    calls: list[tuple[str, str]] = []
    package = str(Path(sys.modules["icl_loop"].__file__ or "").parent)

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            place = frame.f_code.co_filename.removeprefix(package + "/")
            calls.append((place, frame.f_code.co_qualname))

    settings: dict[str, Any] = dict(SETTINGS)
    if not (Path(package) / "models" / "simulated").exists():
        settings["model"] = {"name": "participant/chance"}  # its name before
    with TemporaryDirectory() as folder:
        run = Run(parse(settings), Path(folder))
        sys.setprofile(trace)
        await run.play()
        sys.setprofile(None)
    return calls


def turn(checkout: Path) -> None:
    """Print the files that one steady turn passes through, in the order of their first call."""
    sys.path.insert(0, str(checkout / "src"))
    calls = asyncio.run(_played())
    starts = [i for i, (_, name) in enumerate(calls) if name in ("Task.question", "Task.ask")]
    if len(starts) <= STEADY:
        raise SystemExit("the trace holds too few turns: has Task.question been renamed?")
    steady = calls[starts[STEADY] : starts[STEADY + 1]]
    files: dict[str, list[str]] = {}
    for place, name in steady:
        files.setdefault(place, []).append(name)
    entered = sum(now[0] == "loop.py" != before[0] for before, now in pairwise(steady))
    for place, names in files.items():
        print(f"{place:42} {', '.join(dict.fromkeys(names))}")
    print(f"{len(files)} files, {len(steady)} calls; loop.py is entered {entered} times")


def sentences(checkout: Path) -> Iterator[str]:
    """Yield the sentences that people read: docstrings, comments, messages, help, documents."""
    for path in sorted(checkout.glob("src/**/*.py")) + sorted(checkout.glob("tests/*.py")):
        source = path.read_text()
        strings = [
            node.value
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        comments = re.findall(r"(?<=  # ).*", source)
        for text in strings + comments:
            yield from _sentences_in(text, path.relative_to(checkout))
    for path in [*checkout.glob("*.md"), *checkout.glob("docs/**/*.md")]:
        prose = re.sub(r"(?m)^(    .*|\|.*|#.*|```[\s\S]*?```)$", "", path.read_text())
        yield from _sentences_in(prose, path.relative_to(checkout))
    for path in checkout.glob("src/**/prompts/*.toml"):
        for value in _texts(tomllib.loads(path.read_text())):
            yield from _sentences_in(value, path.relative_to(checkout))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)


def _sentences_in(text: str, place: Path) -> Iterator[str]:
    flat = " ".join(text.split())
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`*])", flat):
        if len(sentence.split()) > 4:
            yield f"{place}: {sentence}"


def main() -> None:
    """Print what the first argument asks for."""
    what, *rest = sys.argv[1:] or ["size"]
    if what == "sentences":
        drawn = random.Random(int(rest[0]) if rest else 0)  # noqa: S311  no secret
        print(*drawn.sample(sorted(set(sentences(HERE))), SENTENCES), sep="\n")
    else:
        {"size": size, "turn": turn}[what](Path(rest[0]).resolve() if rest else HERE)


if __name__ == "__main__":
    main()
