"""Tests of usage and cost."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from builders import experiment, without_checksum
from icl_loop.analysis import frame
from icl_loop.analysis.spending import Spending, spending
from icl_loop.experiment import PriceSettings
from icl_loop.replay.branching import branches
from icl_loop.replay.rescoring import rescore
from icl_loop.runner.run import Run
from icl_loop.transcripts import read
from icl_loop.transcripts.schema import turns_before

PRICE = PriceSettings(input=2.0, output=8.0, cached=0.5)


def run(folder: Path, **changes: Any) -> Path:  # noqa: ANN401  any setting of an experiment file
    """Run a small experiment and return its folder."""
    asyncio.run(Run(experiment(**changes), folder).play())
    return folder / "small"


def spent(folder: Path, price: PriceSettings | None = None) -> Spending:
    """Return the spending of the only arm."""
    (one,) = spending(frame([folder]), price)
    return one


def test_all_requests_counted(tmp_path: Path) -> None:
    """Turns, notes and probes all count as requests."""
    folder = run(
        tmp_path,
        context={"policy": "notes(4, 50)"},
        probes={"at": [6], "count": 3},
    )
    transcripts = [read(path) for path in sorted(folder.glob("*.jsonl"))]
    took = spent(folder)
    assert all(len(each.notes) == 2 and len(each.probes) == 3 for each in transcripts)
    assert took.requests == 2 * (12 + 2 + 3)
    events = [event for each in transcripts for event in each.events]
    probes = [probe for each in transcripts for probe in each.probes]
    assert took.prompt == sum(each.counted or 0 for each in [*events, *probes])
    assert took.prefix == sum(each.prefix or 0 for each in [*events, *probes])


def test_branch_counts_own_requests(tmp_path: Path) -> None:
    """A branch pays only for its own requests, not for those shared with its parent."""
    folder = run(tmp_path, context={"policy": "notes(4, 50)"}, probes={"at": [6, 9], "count": 3})
    made = branches(sorted(folder.glob("*.jsonl")), 7)
    asyncio.run(Run(made, tmp_path).play())
    branch = tmp_path / "small-branches"
    both = spending(frame([folder, branch]), PRICE)
    assert [each.requests for each in both] == [2 * (12 + 2 + 6), 2 * (5 + 1 + 3)]
    own = [
        event.counted or 0
        for path in branch.glob("*.jsonl")
        for saved in [read(path)]
        for event in (*saved.events, *saved.probes)
        if turns_before(event) >= 7
    ]
    assert spent(branch).prompt == both[1].prompt == sum(own)


def test_rescoring_is_free(tmp_path: Path) -> None:
    """Rescored sessions have no requests, tokens or cost."""
    done = [
        rescore(path, ["answers.rule=strict"]) for path in sorted(run(tmp_path).glob("*.jsonl"))
    ]
    took = spent(done[0].path.parent, PRICE)
    assert (took.requests, took.prompt, took.completion, took.usd) == (0, 0, 0, 0.0)
    assert took.prefix is took.prefix_share is None


def test_cached_price(tmp_path: Path) -> None:
    """Tokens in the prefix cost the cached price, all others the full one."""
    took = spent(run(tmp_path), PRICE)
    assert took.prefix is not None
    assert took.usd is not None
    assert took.usd == pytest.approx(2e-6 * took.prompt + 8e-6 * took.completion)
    assert took.usd_prefix == pytest.approx(took.usd - 1.5e-6 * took.prefix)
    assert took.usd_reported == pytest.approx(took.usd - 1.5e-6 * took.cached)


def test_unknown_price(tmp_path: Path) -> None:
    """Without a price the cost is unknown; the cacheable share is not."""
    took = spent(run(tmp_path))
    assert took.usd is took.usd_prefix is None
    assert took.prefix_share is not None
    assert 0 < took.prefix_share < 1


def test_list_price(tmp_path: Path) -> None:
    """Without a given price, the list price of the model applies."""
    folder = run(tmp_path)
    for path in folder.glob("*.jsonl"):
        path.write_text(
            without_checksum(path.read_text()).replace(
                '"name":"reference/nearest"', '"name":"gpt-4o"', 1
            )
        )
    took = spent(folder)
    assert took.usd is not None
    assert took.usd_prefix is not None
    assert 0 < took.usd_prefix < took.usd


def test_share_of_measured_requests(tmp_path: Path) -> None:
    """The cacheable share refers only to requests with a recorded prefix."""
    folder = run(tmp_path, probes={"at": [6], "count": 3})
    whole = spent(folder)
    for path in folder.glob("*.jsonl"):
        head, *lines = without_checksum(path.read_text()).splitlines(keepends=True)
        lines = [_with_reported_usage(line) for line in lines]
        lines[0] = re.sub(r'"(counted|prefix)":\d+,', "", lines[0])
        path.write_text("".join([head, *lines]))
    took = spent(folder)
    saved = [read(path) for path in folder.glob("*.jsonl")]
    asked = [each for session in saved for each in (*session.turns[1:], *session.probes)]
    assert took.prompt == whole.prompt
    assert took.measured == sum(each.counted or 0 for each in asked)
    assert took.prefix == sum(each.prefix or 0 for each in asked)
    assert took.prefix_share == pytest.approx((took.prefix or 0) / took.measured)


def _with_reported_usage(line: str) -> str:
    """Return a line with our token count in place of the reported usage."""
    counted = re.search(r'"counted":(\d+)', line)
    return line.replace('"prompt":0', f'"prompt":{counted[1] if counted else 2_000}')


def test_no_recorded_prefixes(tmp_path: Path) -> None:
    """Without recorded prefixes, the prefix and its cost are None."""
    folder = run(tmp_path)
    for path in folder.glob("*.jsonl"):
        text = without_checksum(path.read_text())
        for name in ("counted", "prefix"):
            text = re.sub(rf'"{name}":\d+,', "", text)
        path.write_text(text)
    took = spent(folder, PRICE)
    assert took.prefix is took.prefix_share is took.usd_prefix is None


def test_cached_share(tmp_path: Path) -> None:
    """The cached share refers to the requests for which the endpoint reported tokens."""
    folder = run(tmp_path)
    assert spent(folder).cached_share is None
    for path in folder.glob("*.jsonl"):
        head, *lines = without_checksum(path.read_text()).splitlines(keepends=True)
        lines[1:] = [
            _with_reported_usage(line).replace('"cached":0', '"cached":9') for line in lines[1:]
        ]
        path.write_text("".join([head, *lines]))
    took = spent(folder)
    assert 0 < took.reported < took.prompt
    assert took.cached == 2 * 11 * 9
    assert took.cached_share == took.fields()["cached_share"] == took.cached / took.reported
