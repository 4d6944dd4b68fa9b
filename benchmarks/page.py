"""The size of the report on four arms of eight sessions of 200 turns, and the time per key press.

Two encodings are measured. A headless browser presses the arrow keys; for each press the benchmark
prints how long the main thread worked, which does not depend on other load on the machine, and how
long the next frame took.

    python benchmarks/page.py [TRANSCRIPTS]
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from icl_loop import parse
from icl_loop.analysis import frame
from icl_loop.report import page
from icl_loop.runner.run import Run

PRESSES = 60
WATCH = """() => {
  window.spent = [];
  document.addEventListener("keydown", () => {
    const pressed = performance.now();
    requestAnimationFrame(() => setTimeout(() => window.spent.push(performance.now() - pressed)));
  }, true);
}"""


async def play(folder: Path, encoding: str) -> Path:
    """Play the sessions with a simulated model and return their folder."""
    experiment = parse(
        {
            "name": encoding,
            "turns": 200,
            "streams": 8,
            "task": {"encoding": encoding},
            "model": {"name": "simulated/chance", "context_window": 1_000_000},
            "arms": [
                {"name": "feedback"},
                {"name": "label", "feedback": {"kind": "label"}},
                {"name": "none", "feedback": {"kind": "none"}},
                {"name": "stateless", "context": {"policy": "stateless"}},
            ],
            "analysis": {"primary": ["feedback", "none"]},
        }
    )
    await Run(experiment, folder).play()
    return folder


async def press(path: Path) -> tuple[float, list[float]]:
    """Return the milliseconds of main-thread work per press, and those until each next frame."""
    from playwright.async_api import async_playwright  # noqa: PLC0415  an optional extra

    program = shutil.which("chromium") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = await browser.new_page(viewport={"width": 1280, "height": 900})
        metrics = await tab.context.new_cdp_session(tab)
        await metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
        await tab.goto(path.as_uri())
        await tab.wait_for_selector("body[data-ready]", timeout=60_000)
        await tab.evaluate(WATCH)
        await tab.focus("#turn")
        await tab.keyboard.press("End")
        await tab.wait_for_timeout(1_000)
        before = await work(metrics)
        for _ in range(PRESSES):
            await tab.keyboard.press("ArrowLeft")
            await tab.wait_for_timeout(60)
        after = await work(metrics)
        spent = sorted(await tab.evaluate("spent"))
        await browser.close()
        return 1_000 * (after - before) / PRESSES, spent


async def work(metrics: Any) -> float:  # noqa: ANN401  playwright need not be installed
    """Return how many seconds the main thread has worked."""
    found = await metrics.send("Performance.getMetrics")
    return float({each["name"]: each["value"] for each in found["metrics"]}["TaskDuration"])


async def main(folders: list[Path]) -> None:
    """Print size and time per key press for these transcripts, or for newly played ones."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for folder in folders or [await play(home / each, each) for each in ("grid", "article")]:
            file = home / f"{folder.name}.html"
            file.write_text(page(frame([folder])), encoding="utf-8")
            cost, spent = await press(file)
            print(
                f"{folder.name}: {file.stat().st_size / 1e6:.2f} MB; {cost:.0f} ms of work per key"
                f" press, next frame after {median(spent):.0f} ms (median),"
                f" {spent[int(0.95 * len(spent)) - 1]:.0f} ms (95 %)"
            )


asyncio.run(main([Path(each) for each in sys.argv[1:]]))
