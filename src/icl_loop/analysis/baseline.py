"""The baseline: what a reference learner answers from exactly the context that a model was shown.

It is computed from saved sessions alone; no request is made, and no data set is opened.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from icl_loop.analysis import (
    Estimate,
    arm_curves,
    equivalent_examples,
    excess_regret,
    learning_efficiency,
    session_curves,
)
from icl_loop.analysis.arm_roles import Roles
from icl_loop.context import shown_in
from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Message, Request, system, user
from icl_loop.core.records import Turn
from icl_loop.loop import recall
from icl_loop.models import BUILT_IN, ChatModel, open_model
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.transcripts import Header, Transcript
from icl_loop.transcripts.loading import SavedSessions

LEARNER = "reference/nearest"


async def baseline(transcript: Transcript, learner: str = LEARNER) -> list[bool]:
    """Return for each turn of a session whether `learner` answers it right in the model's place.

    The learner sees the system text, the turns that the request showed, replies and told words as
    they were, and the question.

    Raises:
        InputError: There is no such learner, or it does not understand the session's prompt set.
        RequestRefused: The session shows what the learner cannot read, such as pictures as pictures.
    """
    names = [name for name in BUILT_IN if name.startswith("reference/")]
    if learner not in names:
        raise InputError(f"unknown reference learner {learner!r}: {nearest(learner, names)}")
    headers = [transcript.header.at(turn.index) for turn in transcript.turns]
    prompt_sets = sorted({name for header in headers for name in _promptss(header)})
    model = open_model(learner, seed=transcript.header.seed, prompt_sets=prompt_sets)
    asked = zip(headers, transcript.turns, strict=True)
    return [await _is_right(model, header, transcript, turn) for header, turn in asked]


def _promptss(header: Header) -> list[str]:
    task = header.settings.get("task", {})
    return [task["prompts"]] if "prompts" in task else []


async def _is_right(model: ChatModel, header: Header, transcript: Transcript, turn: Turn) -> bool:
    reply = await model.complete(request_of(transcript, turn))
    prompt_sets = _promptss(header)
    form = _form_of(prompt_sets[0]) if prompt_sets else None
    reading = parse_answer(reply.text, header.labels, reply.finish, form)
    return reading.answer == turn.label


@lru_cache(16)
def _form_of(prompts: str) -> str:
    """Return the form of the final line; a file of sentences is read once."""
    return open_prompt_set(prompts).answer


def request_of(transcript: Transcript, turn: Turn) -> Request:
    """Return the messages that the model was sent."""
    header = transcript.header.at(turn.index)
    frame, opening = system(header.system), _opening(transcript, header, turn)
    return recall(frame, transcript.turns, shown_in(turn.kept), turn.question, opening)


def _opening(transcript: Transcript, header: Header, turn: Turn) -> tuple[Message, ...]:
    """Return the notes that stood before the turns shown, if there were any."""
    if not transcript.notes:
        return ()
    written = [note.text for note in transcript.notes if note.after_turn <= turn.index]
    text, words = written[-1] if written else "", _promptss(header)
    book = open_prompt_set(words[0]).notes if words else None
    return (user(book.show(text)),) if book is not None and text.strip() else ()


async def baselines(paths: Iterable[Path], learner: str = LEARNER) -> pl.DataFrame:
    """Return the baseline of every turn of the transcripts or exports at `paths`, as `baseline_frame`."""
    return pl.concat([await baseline_frame(saved, learner) for saved in SavedSessions.at(paths)])


async def baseline_frame(transcript: Transcript, learner: str = LEARNER) -> pl.DataFrame:
    """Return the baseline of every turn of a session.

    Columns: `path`, `turn`, `baseline` (whether the learner is right).
    """
    right = await baseline(transcript, learner)
    columns = {
        "path": [str(transcript.path)] * len(right),
        "turn": list(range(len(right))),
        "baseline": right,
    }
    return pl.DataFrame(columns, schema=_SCHEMA)


_SCHEMA = {"path": pl.String, "turn": pl.Int64, "baseline": pl.Boolean}


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """The baseline of a frame of turns, as it is drawn.

    Attributes:
        learner: Whose baseline it is.
        turns: What `baselines` returns, None where there is no baseline.
        note: What is left out and why, empty if nothing is.
    """

    learner: str
    turns: pl.DataFrame | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ArmBaseline:
    """An arm beside its baseline.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        learner: Whose baseline it is.
        late: Accuracy of the baseline over the second half of the turns planned.
        excess_regret: Wrong answers of a session beyond those of its baseline.
        learning_efficiency: The share of the baseline's gain over the arm's stateless twin that the
            arm has, late; None without a twin, or a gain.
        equivalent_examples: After how many turns the baseline's curve reaches the arm's late accuracy;
            None where it never does.
    """

    experiment: str
    arm: str
    learner: str
    late: Estimate
    excess_regret: Estimate
    learning_efficiency: float | None
    equivalent_examples: float | None

    def fields(self) -> dict[str, Any]:
        """Return it as JSON; what is undefined is null."""
        named = asdict(self)
        for name in ("late", "excess_regret"):
            estimate: Estimate = getattr(self, name)
            named[name] = estimate.mean
            named[f"{name}_ci"] = estimate.interval and list(estimate.interval)
        return {name: value for name, value in named.items() if name not in ("experiment", "arm")}


def beside(
    turns: pl.DataFrame, baselineed: pl.DataFrame, known: pl.DataFrame, learner: str = LEARNER
) -> list[ArmBaseline]:
    """Return every arm of a frame of turns that has a baseline beside it, in the order of the frame.

    Args:
        turns: What `frame` returns.
        baselineed: What `baselines` returns for the same transcripts.
        known: What `analysis.sessions` returns for them.
        learner: Whose baseline it is.
    """
    twins = _twins(turns, known)
    both = turns.join(baselineed, on=["path", "turn"], how="left", maintain_order="left")
    return [
        _beside(
            str(experiment),
            str(arm),
            part,
            _stateless(both, str(experiment), str(arm), twins),
            learner,
        )
        for (experiment, arm), part in both.drop_nulls("baseline").group_by(
            "experiment", "arm", maintain_order=True
        )
    ]


Twins = Mapping[tuple[str, str], str | None]
"""The stateless twin of an arm, by experiment and arm."""


def _twins(turns: pl.DataFrame, known: pl.DataFrame) -> Twins:
    return {
        (experiment, arm): Roles.of(experiment, arms, known).stateless_twin(arm)
        for experiment, arms in turns.group_by("experiment", maintain_order=True)
        .agg(pl.col("arm").unique(maintain_order=True))
        .iter_rows()
        for arm in arms
    }


def _beside(
    experiment: str, arm: str, turns: pl.DataFrame, stateless: float | None, learner: str
) -> ArmBaseline:
    late = turns.filter(_is_late())
    accuracy, reference = late["correct"].mean(), _per_session(late, pl.col("baseline").mean())
    curve = arm_curves(session_curves(turns.with_columns(correct="baseline"), 20))
    regret = [
        float(excess_regret(part["correct"], part["baseline"])[-1])
        for part in turns.partition_by("path")
    ]
    efficiency = None
    if stateless is not None and isinstance(accuracy, float) and reference.mean is not None:
        efficiency = learning_efficiency(accuracy, stateless, reference.mean)
    return ArmBaseline(
        experiment=experiment,
        arm=arm,
        learner=learner,
        late=reference,
        excess_regret=Estimate.of(np.array(regret)),
        learning_efficiency=efficiency,
        equivalent_examples=equivalent_examples(accuracy, curve["turn"], curve["accuracy"])
        if isinstance(accuracy, float)
        else None,
    )


def _stateless(turns: pl.DataFrame, experiment: str, arm: str, twins: Twins) -> float | None:
    """Return the late accuracy of an arm's stateless twin; None without one."""
    twin = twins.get((experiment, arm))
    if twin is None:
        return None
    late = turns.filter(_is_late(), experiment=experiment, arm=twin)["correct"].mean()
    return late if isinstance(late, float) else None


def _is_late() -> pl.Expr:
    return pl.col("turn") >= pl.col("turns") // 2


def _per_session(turns: pl.DataFrame, of: pl.Expr) -> Estimate:
    return Estimate.of(
        turns.group_by("path", maintain_order=True).agg(value=of)["value"].to_numpy()
    )
