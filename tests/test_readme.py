"""The README and its first pages tell the truth: examples run, commands exist, links lead somewhere."""

import re
from pathlib import Path

import pytest

from builders import experiment, played, session
from icl_loop.analysis import frame, tabulate
from icl_loop.cli import app
from icl_loop.runner.run import Run

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("running", "data", "python")),
]
TEXT = {page: page.read_text() for page in PAGES}
LINKS = sorted(
    {
        (page.relative_to(ROOT).as_posix(), link)
        for page, text in TEXT.items()
        for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    }
)


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python example runs as it stands and leaves the picture that it names."""
    (example,) = re.findall(r"```python\n(.*?)```", "".join(TEXT.values()), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "python.md", "exec"), {"__name__": "__main__"})  # noqa: S102  our own words
    assert (tmp_path / "parrot.png").stat().st_size > 10_000


def test_the_commands_exist() -> None:
    """Every `icl-loop` command that the pages show is one."""
    shown = set(re.findall(r"icl-loop (\w+) ", "".join(TEXT.values())))
    known = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]  # each has one
    assert shown
    assert shown <= known


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_the_links_lead_somewhere(page: str, link: str) -> None:
    """Every relative link of a page names a file of the project."""
    assert (ROOT / page).parent.joinpath(link).exists()


async def test_turns_not_saved_make_the_same_frame(tmp_path: Path) -> None:
    """A frame of turns just played equals that of their transcript, but for path and names."""
    chosen = session(8, model="simulated/chance")
    table = tabulate({("feedback", 0): await played(chosen)}, chance=0.1, experiment="small")

    made = experiment(
        turns=8, streams=1, model={"name": "simulated/chance"}, feedback={"kind": "label"}
    )
    saved = frame((await Run(made, tmp_path).play()).paths)
    assert table.columns == saved.columns
    drop = ("path", "latency_s")
    assert table.drop(drop).rows() == saved.drop(drop).rows()
