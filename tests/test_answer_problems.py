"""Tests of the alarm about unusable answers and prompt caches that serve too little."""

import json
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest

from command_line import Command
from endpoint import completion, serving
from icl_loop.analysis import frame
from icl_loop.analysis.answer_problems import (
    QUOTED,
    AnswerProblem,
    AnswerWatch,
    answer_problems,
    with_advice,
)
from icl_loop.analysis.cache_problems import STREAK, CacheProblem, CacheWatch, cache_problems
from icl_loop.core.messages import Reply, user
from icl_loop.core.records import Feedback, Outcome, Turn
from icl_loop.report.page import page

LABELS = "AB" * 20


def turn(index: int, label: str, answer: str | None, outcome: Outcome = "ok") -> Turn:
    """Return a turn with this answer."""
    return Turn(
        kept=(),
        request="",
        reply=Reply(answer or "no idea"),
        index=index,
        sample=f"s/{index}",
        label=label,
        question=user("?"),
        answer=answer,
        outcome=outcome,
        feedback=Feedback(answer == label, ""),
    )


def first_problem(turns: Iterable[Turn], sessions: int = 1) -> tuple[int, AnswerProblem] | None:
    """Return the problem and the number of turns until it was found; each turn is played `sessions` times."""
    watch, seen = AnswerWatch("e", "a"), 0
    for each in turns:
        for session in range(sessions):
            seen += 1
            if found := watch.add(f"a-{session}.jsonl", each):
                return seen, found
    return None


@pytest.mark.parametrize(
    ("outcomes", "kind", "count"),
    [
        (["unreadable"] * 5 + ["out_of_set"] * 3 + ["ok"] * 2, "unreadable", 8),
        (["truncated"] * 5 + ["ok"] * 5, "truncated", 5),
        (["refusal"] * 8 + ["ok"] * 2, "refusal", 8),
        (["truncated"] * 4 + ["unreadable"] * 6, "unreadable", 6),
        (["ok"] * 3 + ["unreadable"] * 7, None, 0),
        (["ok"] * 6 + ["truncated"] * 4, None, 0),
    ],
)
def test_unusable_answers(outcomes: list[Outcome], kind: str | None, count: int) -> None:
    """Ten answers show whether most are missing, and for what reason."""
    turns = [
        turn(index, label, label if outcome == "ok" else None, outcome)
        for index, (label, outcome) in enumerate(zip(LABELS, outcomes, strict=False))
    ]
    found = first_problem(turns)
    if kind is None:
        assert found is None
    else:
        assert found is not None
        assert (found[0], found[1].kind, found[1].count, found[1].is_error) == (
            10,
            kind,
            count,
            True,
        )


def test_one_label() -> None:
    """Ten equal answers to questions with other labels are a problem, but no error."""
    found = first_problem(turn(index, label, "A") for index, label in enumerate(LABELS))
    assert found is not None
    assert (found[0], found[1].kind, found[1].label) == (10, "one_label", "A")
    assert not found[1].is_error


def test_same_first_guess() -> None:
    """The same guess at the first turn of every stream is no problem, but a lasting one is."""
    assert first_problem([turn(0, "A", "B")], sessions=30) is None
    learner = [turn(0, "A", "B"), turn(1, "A", "A"), turn(2, "B", "B")]
    assert first_problem(learner, sessions=8) is None
    constant = [turn(index, label, "B") for index, label in enumerate("AABA")]
    found = first_problem(constant, sessions=8)
    assert found is not None
    assert found[0] == 8 + 9


def test_right_answers_are_no_problem() -> None:
    """Equal answers that are right, because the questions have one label, are no problem."""
    assert first_problem(turn(index, "A", "A") for index in range(30)) is None
    assert (
        first_problem(turn(index, "A" if index != 4 else "B", "A") for index in range(30)) is None
    )


def test_said_once() -> None:
    """A problem is said once per arm."""
    watch = AnswerWatch("e", "a")
    turns = [turn(index, "A", None, "unreadable") for index in range(40)]
    assert sum(watch.add("a-0.jsonl", each) is not None for each in turns) == 1


ESSAY = completion("\x1b[31m<b>It is hard to\x07 say</b> " + "word " * 200)
SETTINGS = [
    "model.name=tiny",
    "name=tiny",
    *("context.policy=last(3)", "context.counter=estimate:o200k_base"),
]


def command(base_url: str, folder: Path, *more: object) -> list[object]:
    """Return a command that plays the quick start with an endpoint."""
    settings = [*SETTINGS, f"model.base_url={base_url}"]
    sets = [word for each in settings for word in ("--set", each)]
    return ["run", "experiments/quickstart.toml", "--out", folder, "--turns", 12, *sets, *more]


@pytest.mark.parametrize("stop", [False, True])
def test_unreadable_run(
    tmp_path: Path, icl_loop: Command, monkeypatch: pytest.MonkeyPatch, *, stop: bool
) -> None:
    """The alarm names arm and remedy while the run goes on, or stops it; analysis and report repeat it."""
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    with serving([ESSAY]) as endpoint:
        options = ["--streams", 2, *(["--stop-unreadable"] if stop else [])]
        done = icl_loop(*command(endpoint.base_url, tmp_path, *options))
    assert done.returncode == stop
    turns = frame([tmp_path])
    arms = [
        str(arm) for (arm,), part in turns.group_by("arm", maintain_order=True) if part.height > 9
    ]
    said = [line for line in done.stderr.splitlines() if line.startswith("note: arm")]
    assert sorted(line.split("'")[1] for line in said) == sorted(arms)
    assert all('model.answer_format = "choice"' in line and "\x1b" not in line for line in said)
    resumable = done.stderr.splitlines()[-1]
    if stop:
        assert arms
        assert turns.height < 5 * 2 * 12
        assert resumable.startswith("stopped short; saved turns are kept.")
        assert "--stop-unreadable" not in resumable
    else:
        assert turns.height == 5 * 2 * 12
    found = json.loads(icl_loop("analyze", "--json", tmp_path).stdout)["problems"]
    assert [(each["arm"], each["kind"], each["total"]) for each in found] == [
        (arm, "unreadable", turns.filter(arm=arm).height) for arm in arms
    ]
    assert all(each["reply"].startswith("[31m<b>It is hard to say</b> word") for each in found)
    assert {len(each["reply"]) for each in found} == {QUOTED}
    export = tmp_path / "e.parquet"
    icl_loop("export", "--to", "parquet", "-o", export, tmp_path)
    assert json.loads(icl_loop("analyze", "--json", export).stdout)["problems"] == found
    export.unlink()
    assert icl_loop("analyze", tmp_path).stdout.startswith(f"note: {found[0]['text'][:20]}")
    head = page(turns).partition("<main>")[0]
    assert head.count('class="problem"') == len(found)
    assert "&lt;b&gt;It is hard" in head
    assert "<b>It is hard" not in head


def test_remedy_for_ignored_choice(tmp_path: Path, icl_loop: Command) -> None:
    """If the answers are limited to the labels already, that is not advised again."""
    with serving([ESSAY]) as endpoint:
        icl_loop(
            *command(endpoint.base_url, tmp_path, "--streams", 2),
            *("--set", "model.answer_format=choice", "--set", "model.api_key_env=HOME"),
        )
    found = answer_problems(frame([tmp_path]), [tmp_path])
    assert len(found) == 5
    assert all(each.remedy.startswith("The endpoint ignores") for each in found)


def test_no_false_alarm(tmp_path: Path, icl_loop: Command) -> None:
    """The shipped quick start raises no alarm, however many sessions play at once."""
    done = icl_loop("run", "experiments/quickstart.toml", "--out", tmp_path, "--turns", 20)
    assert done.returncode == 0
    assert "note: arm" not in done.stderr
    assert json.loads(icl_loop("analyze", "--json", tmp_path).stdout)["problems"] == []


def test_constant_answers_of_all_sessions(tmp_path: Path, icl_loop: Command) -> None:
    """A model that repeats one label is noted during the run and afterwards; the run completes."""
    options = ["--set", "model.name=simulated/constant", "--stop-unreadable"]
    run = ["run", "experiments/quickstart.toml", "--out", tmp_path, "--turns", 12, "--streams", 2]
    done = icl_loop(*run, *options)
    assert done.returncode == 0
    found = answer_problems(frame([tmp_path]), [tmp_path])
    assert [each.kind for each in found] == ["one_label"] * 5
    assert done.stderr.count("note: arm") == 5


@pytest.mark.parametrize(
    ("answer_format", "is_recorded"),
    [("text", False), ("choice", False), ("choice", True), ("logprobs", True)],
)
def test_remedy_for_one_label(answer_format: str, *, is_recorded: bool) -> None:
    """Log probabilities are advised only where they are neither requested nor recorded."""
    _, problem = first_problem(turn(at, label, "A") for at, label in enumerate(LABELS)) or (0, None)
    assert problem is not None
    scores = {"A": -0.1, "B": -2.4} if is_recorded else None
    remedy = with_advice(problem, Reply("A", label_logprobs=scores), answer_format).remedy
    assert ('answer_format = "choice"' in remedy) == (answer_format == "text")
    assert ("log loss" in remedy) == is_recorded


def missed(watch: CacheWatch, turns: Iterable[tuple[int, int, int]]) -> list[CacheProblem]:
    """Return the problems of turns with these tokens: cached of 200, repeated of 100, index."""
    found = [
        watch.add("a-0", index, prompt=200, cached=cached, counted=100, prefix=prefix)
        for cached, prefix, index in turns
    ]
    return [each for each in found if each]


def test_cache_that_serves_too_little() -> None:
    """Twenty consecutive turns with less than half of the possible share are noted once."""
    poor = [(70, 80, index) for index in range(3 * STREAK)]
    [problem] = missed(CacheWatch("e", "a"), poor)
    assert (problem.turn, problem.session) == (0, "a-0")
    assert (problem.cached_share, problem.prefix_share) == pytest.approx((0.35, 0.8))
    assert missed(CacheWatch("e", "a"), poor[: STREAK - 1]) == []
    enough = [(80, 80, index) for index in range(3 * STREAK)]
    assert missed(CacheWatch("e", "a"), enough) == []
    interrupted = [(80 if index == 15 else 70, 80, index) for index in range(STREAK + 10)]
    assert missed(CacheWatch("e", "a"), interrupted) == []


def test_endpoints_without_cache() -> None:
    """Without any cached tokens, only prompts that mostly repeat are worth a note."""
    assert missed(CacheWatch("e", "a"), [(0, 40, index) for index in range(STREAK)]) == []
    assert len(missed(CacheWatch("e", "a"), [(0, 60, index) for index in range(STREAK)])) == 1
    once = [(80, 40, 0), *((0, 40, index) for index in range(1, STREAK + 1))]
    assert len(missed(CacheWatch("e", "a"), once)) == 1


def test_saved_cache_problems() -> None:
    """Analysis finds what the run noted: the watch and the frame agree on every session."""
    rows = [
        {
            "experiment": "e",
            "arm": "a",
            "path": path,
            "turn": index,
            "prompt": 200,
            "cached": cached,
            "counted": 100,
            "prefix": 80,
        }
        for path, cached in (("a-0", 70), ("a-1", 90))
        for index in range(STREAK)
    ]
    [problem] = cache_problems(pl.DataFrame(rows))
    [noted] = missed(CacheWatch("e", "a"), [(70, 80, index) for index in range(STREAK)])
    assert problem == noted
    assert cache_problems(pl.DataFrame(rows[1:])) == []
    silent = pl.DataFrame([{**row, "prompt": 0, "cached": 0} for row in rows])
    assert cache_problems(silent) == []
