"""Early signs that an arm's answers are unusable: unreadable, cut, refused, or all the same."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from icl_loop.analysis.cache_problems import CacheProblem, cache_problems
from icl_loop.analysis.session_settings import table_in
from icl_loop.core.messages import Reply
from icl_loop.core.records import Turn
from icl_loop.transcripts.loading import saved_sessions

Kind = Literal["unreadable", "truncated", "refusal", "one_label"]
FIRST = 10
"""How many answers of an arm are looked at first, over its sessions."""
UNUSABLE_SHARE = 0.8
"""A problem if at least this share of replies has no answer, for whatever reason."""
CUT_SHARE = 0.5
"""A problem if at least this share of replies was cut."""
SAME_SHARE = 0.9
"""A problem if at least this share of an arm's answers is one label, later ones included."""
WRONG_SHARE = 0.3
"""One label is a problem only if at least this share of its answers is wrong."""
QUOTED = 200
"""Most characters of a reply that are quoted."""

_Scored = tuple[str, bool, bool, str | None, str]
"""Session, whether it is after the first turn, whether the answer is correct, answer and outcome."""
_KINDS: Mapping[str, Kind] = {
    "truncated": "truncated",
    "refusal": "refusal",
    "unreadable": "unreadable",
    "out_of_set": "unreadable",
}
_REMEDIES: Mapping[str, str] = {
    "unreadable": 'Set model.answer_format = "choice" to allow only the labels, choose another prompt'
    " set (task.prompts), or accept further names of labels (answers.labels)",
    "choice": 'The endpoint ignores model.answer_format = "choice": check that it supports'
    " constrained answers, or choose another prompt set (task.prompts)",
    "truncated": "Raise context.reserve or the reply limit in model.params (such as max_tokens), or"
    " let the model reason less",
    "refusal": "Choose another prompt set (task.prompts) or other label names (task.labels), or check"
    " the content filter of the endpoint",
    "one_label": "Compare with another prompt set (task.prompts) or other label names (task.labels)",
    "graded": "; the log loss of the labels, which is recorded, can show learning that answers hide",
    "ungraded": '; log probabilities (model.answer_format = "choice") can show learning that answers'
    " hide",
}


@dataclass(frozen=True, slots=True)
class AnswerProblem:
    """What is wrong with the answers of one arm.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        kind: Most replies have no answer, were cut or refused, or the answers are one label.
        first: How many of the first answers were looked at.
        count: How many of these have the problem.
        total: How many answers were looked at in all.
        in_all: How many of these have the problem.
        label: The label, if the answers are one label, the same in every session.
        reply: The beginning of one reply with the problem.
        remedy: What to change.
    """

    experiment: str
    arm: str
    kind: Kind
    first: int
    count: int
    total: int
    in_all: int
    label: str | None = None
    reply: str = ""
    remedy: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the answers are lost; answers that are one label are only suspicious."""
        return self.kind != "one_label"

    @property
    def text(self) -> str:
        """The problem, a reply and the remedy in a few sentences."""
        what = {
            "unreadable": "cannot be read as one of the labels",
            "truncated": "were cut before an answer",
            "refusal": "are refusals",
            "one_label": f"are {self.label!r}, whatever the question"
            if self.label is not None
            else "repeat the other answers of their session, whatever the question",
        }[self.kind]
        noun = "replies" if self.is_error else "answers"
        looked_at = f"{self.first:,}" if self.first == self.total else f"the first {self.first:,}"
        in_all = f" ({self.in_all:,} of {self.total:,} in all)" if self.total > self.first else ""
        quote = f"A reply: “{self.reply}”." if self.reply else "A reply had no text."
        return (
            f"arm {self.arm!r}: {self.count:,} of {looked_at} {noun}{in_all} {what}. {quote}"
            f" {self.remedy}."
        )

    def fields(self) -> dict[str, Any]:
        """Return the problem as `analyze --json` prints it."""
        return {**asdict(self), "text": self.text}


class AnswerWatch:
    """Watches the first answers of one arm as they arrive.

    Unusable replies are judged after ten. For answers to be one label, nine of them must follow the
    first turn of their session: at the first turn, the same guess in every stream is no surprise.
    By chance, nine answers repeat one of two labels with a probability below 0.002.
    """

    def __init__(self, experiment: str, arm: str) -> None:
        self._experiment, self._arm = experiment, arm
        self._counts = Counter[_Scored]()
        self._later = 0
        self._decided = False

    def add(self, session: str, turn: Turn) -> AnswerProblem | None:
        """Add a turn; return the problem at the turn that shows it, and None otherwise."""
        if self._decided:
            return None
        self._counts[session, turn.index > 0, turn.feedback.correct, turn.answer, turn.outcome] += 1
        self._later += turn.index > 0
        found = _unusable(self._counts) if self._counts.total() == FIRST else None
        if found is None and self._later >= FIRST - 1:
            found = _one_label(self._counts)
        self._decided = found is not None or self._later >= 2 * FIRST
        return found and replace(found, experiment=self._experiment, arm=self._arm)


def problems(turns: pl.DataFrame, paths: Iterable[Path]) -> list[AnswerProblem | CacheProblem]:
    """Return the problems of answers and of prompt caches in a frame of turns read from `paths`."""
    return [*answer_problems(turns, paths), *cache_problems(turns)]


def answer_problems(turns: pl.DataFrame, paths: Iterable[Path]) -> list[AnswerProblem]:
    """Return the problems of the arms in a frame of turns, at most one per arm.

    Unusable replies are looked for among the first ten of the arm (by turn, then by stream) and
    among all. One label is a problem only if almost all answers of every session are that label.

    Args:
        turns: The result of `frame`.
        paths: The paths given to `frame`.
    """
    found = [
        (part, problem)
        for (experiment, arm), part in turns.group_by("experiment", "arm", maintain_order=True)
        if part.height >= FIRST and (problem := _problem_of(part, str(experiment), str(arm)))
    ]
    saved = saved_sessions(paths) if found else {}
    told = []
    for part, problem in found:
        path, turn = _example(part, problem)
        model = table_in(saved[path].header().settings, "model")
        reply = saved[path].read().turns[turn].reply
        told.append(with_advice(problem, reply, model.get("answer_format")))
    return told


def with_advice(problem: AnswerProblem, reply: Reply, answer_format: object) -> AnswerProblem:
    """Return the problem with a reply to quote and the remedy that fits the model's settings."""
    is_limited = problem.kind == "unreadable" and answer_format in ("choice", "schema")
    remedy = _REMEDIES["choice" if is_limited else problem.kind]
    if problem.kind == "one_label":
        has_asked = answer_format in ("choice", "logprobs")
        said = "graded" if reply.label_logprobs else "" if has_asked else "ungraded"
        remedy += _REMEDIES.get(said, "")
    return replace(problem, reply=quoted(reply.text or reply.reasoning_text or ""), remedy=remedy)


def quoted(text: str) -> str:
    """Return the beginning of a reply on one line, without control characters."""
    visible = "".join(char if char.isprintable() else " " for char in text[: 5 * QUOTED])
    line = " ".join(visible.split())
    return line if len(line) <= QUOTED else f"{line[: QUOTED - 1]}…"


def _problem_of(part: pl.DataFrame, experiment: str, arm: str) -> AnswerProblem | None:
    """Return the problem of an arm, without a reply."""
    part = part.drop_nulls("correct")
    leading = part.filter(pl.col("turn") < FIRST).sort("turn", "stream", maintain_order=True)
    first, everything = _counted(leading.head(FIRST)), _counted(part)
    found = _unusable(first) or _unusable(everything) or _one_label(everything, SAME_SHARE)
    if found is None:
        return None
    in_all = sum(
        count for (*_, outcome), count in everything.items() if _KINDS.get(outcome) == found.kind
    )
    return replace(
        found,
        experiment=experiment,
        arm=arm,
        total=part.height,
        in_all=in_all if found.is_error else found.count,
    )


def _counted(turns: pl.DataFrame) -> Counter[_Scored]:
    """Return how often each kind of turn occurs in a frame."""
    kind = ("path", pl.col("turn") > 0, "correct", "answer", "outcome")
    counts = turns.group_by(kind, maintain_order=True).len()
    return Counter({tuple(row): count for *row, count in counts.iter_rows()})


def _example(part: pl.DataFrame, problem: AnswerProblem) -> tuple[str, int]:
    """Return the session and the turn of the first reply with the problem."""
    kinds = [outcome for outcome, kind in _KINDS.items() if kind == problem.kind] or ["ok"]
    having = part.filter(pl.col("outcome").is_in(kinds))
    if problem.label is not None:
        having = having.filter(answer=problem.label)
    path, turn = having.sort("turn", "stream", maintain_order=True).select("path", "turn").row(0)
    return path, turn


def _unusable(counts: Counter[_Scored]) -> AnswerProblem | None:
    """Return the problem of replies without answers, named for the most common reason."""
    kinds, total = Counter[Kind](), counts.total()
    for (*_, outcome), count in counts.items():
        if kind := _KINDS.get(outcome):
            kinds[kind] += count
    if kinds["truncated"] >= CUT_SHARE * total:
        return _problem("truncated", kinds["truncated"], total)
    if kinds.total() >= UNUSABLE_SHARE * total:
        [(kind, count)] = kinds.most_common(1)
        return _problem(kind, count, total)
    return None


def _one_label(counts: Counter[_Scored], share: float = 1.0) -> AnswerProblem | None:
    """Return the problem of sessions that give one label each although the correct label varies."""
    given: dict[str, Counter[str]] = {}
    right, later = Counter[tuple[str, str]](), 0
    for (session, is_later, is_right, answer, _), count in counts.items():
        if answer is not None:
            given.setdefault(session, Counter())[answer] += count
            right[session, answer] += count * is_right
            later += count * is_later
    if later < FIRST - 1:
        return None
    top = {session: answers.most_common(1)[0] for session, answers in given.items()}
    count = sum(each for _, each in top.values())
    wrong = count - sum(right[session, label] for session, (label, _) in top.items())
    answered = sum(answers.total() for answers in given.values())
    if count < share * answered or wrong < WRONG_SHARE * count:
        return None
    labels = {label for label, _ in top.values()}
    only = labels.pop() if len(labels) == 1 else None
    return replace(_problem("one_label", count, counts.total()), label=only)


def _problem(kind: Kind, count: int, total: int) -> AnswerProblem:
    return AnswerProblem("", "", kind, first=total, count=count, total=total, in_all=count)
