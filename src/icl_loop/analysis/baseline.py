"""The baseline: a reference learner's answers from exactly the context the model was shown.

It is computed from saved sessions alone, without requests or data sets.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from icl_loop.analysis.arm_roles import Roles
from icl_loop.analysis.curves import LATE, Estimate, arm_curves, session_curves, with_baseline
from icl_loop.analysis.metrics import equivalent_examples, learning_efficiency
from icl_loop.context.history import build_request
from icl_loop.context.window import from_spans
from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Message, system, user
from icl_loop.core.records import Turn
from icl_loop.models import BUILT_IN, ChatModel, open_model
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.prompts import PromptSet, open_prompt_set
from icl_loop.transcripts import Header, Transcript
from icl_loop.transcripts.loading import saved_sessions

LEARNER = "reference/nearest"


async def baseline(transcript: Transcript, learner: str = LEARNER) -> list[bool]:
    """Return, for each turn of a session, whether `learner` would answer it correctly.

    The learner receives the request that the model received.

    Raises:
        InputError: The learner is unknown or cannot read the session's prompt set.
        RequestRefused: The learner cannot read the samples, such as images.
    """
    check_learner(learner)
    seed, right = transcript.header.seed or 0, []
    imported = transcript.header.imported
    if imported and not (
        _prompts(transcript.header) and all(turn.request for turn in transcript.turns)
    ):
        raise InputError(
            f"{transcript.path} was imported from {imported.file}, which does not say what the model"
            " was shown or by which prompt set"
        )
    models: dict[tuple[str | None, str | None], ChatModel] = {}
    for turn in transcript.turns:
        header = transcript.header.at(turn.index)
        task, prompts = header.settings.get("task", {}), _prompts(header)
        encoding = task.get("encoding")
        key = str(task.get("prompts")), None if encoding is None else str(encoding)
        if key not in models:
            models[key] = open_model(learner, seed=seed, prompts=prompts, encoding=key[1])
        reply = await models[key].complete(request_of(transcript, turn))
        form = prompts.answer if prompts else None
        parsed = parse_answer(reply.text, header.labels, reply.finish, form)
        right.append(parsed.answer == turn.label)
    return right


def check_learner(name: str) -> None:
    """Raise InputError unless there is a reference learner of this name."""
    names = [each for each in BUILT_IN if each.startswith("reference/")]
    if name not in names:
        raise InputError(f"unknown reference learner {name!r}: {nearest(name, names)}")


def _prompts(header: Header) -> PromptSet | None:
    """Return the prompt set of a session, or None if the header does not name one."""
    name = header.settings.get("task", {}).get("prompts")
    return _opened(str(name)) if name else None


_opened = lru_cache(16)(open_prompt_set)


def request_of(transcript: Transcript, turn: Turn) -> tuple[Message, ...]:
    """Return the messages that the model received."""
    header = transcript.header.at(turn.index)
    frame, opening = system(header.system or ""), _opening(transcript, header, turn)
    return build_request(frame, transcript.turns, from_spans(turn.kept), turn.question, opening)


def _opening(transcript: Transcript, header: Header, turn: Turn) -> tuple[Message, ...]:
    """Return the exemplars, and the message with the model's notes, if any were shown."""
    exemplars = header.exemplar_messages
    if not transcript.notes:
        return exemplars
    written = [note.text for note in transcript.notes if note.after_turn <= turn.index]
    text, prompts = written[-1] if written else "", _prompts(header)
    if prompts is None or prompts.notes is None or not text.strip():
        return exemplars
    return (*exemplars, user(prompts.notes.show(text)))


async def baselines(paths: Iterable[Path], learner: str = LEARNER) -> pl.DataFrame:
    """Return the baseline of every turn of the transcripts or exports at `paths`; see `baseline_frame`."""
    saved = saved_sessions(paths).values()
    return pl.concat([await baseline_frame(each.read(), learner) for each in saved])


async def baseline_frame(transcript: Transcript, learner: str = LEARNER) -> pl.DataFrame:
    """Return the baseline of every turn of a session.

    Columns: `path`, `turn`, `baseline` (whether the learner is correct).
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
    """The baseline of a frame of turns, for plots and reports.

    Attributes:
        learner: Name of the reference learner.
        turns: The result of `baselines`, or None if there is no baseline.
        note: Which sessions are left out and why; empty if none are.
    """

    learner: str
    turns: pl.DataFrame | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class ArmBaseline:
    """An arm compared with its baseline.

    Attributes:
        experiment: Name of the experiment.
        arm: Name of the arm.
        learner: Name of the reference learner.
        late: Late accuracy of the baseline.
        excess_regret: Wrong answers of a session minus those of its baseline.
        learning_efficiency: The arm's late gain over its stateless twin as a share of the baseline's
            gain; None without a twin or a gain.
        equivalent_examples: Number of turns after which the baseline's curve reaches the arm's late
            accuracy; None if it never does.
    """

    experiment: str
    arm: str
    learner: str
    late: Estimate
    excess_regret: Estimate
    learning_efficiency: float | None
    equivalent_examples: float | None

    def fields(self) -> dict[str, Any]:
        """Return the values as JSON; undefined values are null."""
        named = asdict(self)
        for name in ("late", "excess_regret"):
            estimate: Estimate = getattr(self, name)
            named[name] = estimate.mean
            named[f"{name}_ci"] = estimate.interval and list(estimate.interval)
        return {name: value for name, value in named.items() if name not in ("experiment", "arm")}


def compare_with_baseline(
    turns: pl.DataFrame, baseline_turns: pl.DataFrame, known: pl.DataFrame, learner: str = LEARNER
) -> list[ArmBaseline]:
    """Return every arm that has a baseline, compared with it, in order of appearance.

    Args:
        turns: The result of `frame`.
        baseline_turns: The result of `baselines` for the same transcripts.
        known: The result of `analysis.sessions` for them.
        learner: Name of the reference learner.
    """
    both = turns.join(baseline_turns, on=["path", "turn"], how="left", maintain_order="left")
    arms = turns.select("experiment", "arm").unique(maintain_order=True)
    roles = {
        experiment: Roles.of(str(experiment), part["arm"].to_list(), known)
        for (experiment,), part in arms.group_by("experiment")
    }
    compared = []
    for (experiment, arm), part in both.drop_nulls("baseline").group_by(
        "experiment", "arm", maintain_order=True
    ):
        twin = roles[experiment].stateless_twin(str(arm))
        beside = None if twin is None else both.filter(experiment=experiment, arm=twin)
        compared.append(_comparison(str(experiment), str(arm), part, beside, learner))
    return compared


def _comparison(
    experiment: str, arm: str, turns: pl.DataFrame, twin: pl.DataFrame | None, learner: str
) -> ArmBaseline:
    late = turns.filter(LATE)
    accuracy = late["correct"].mean()
    late = late.drop_nulls("correct")
    reference = Estimate.of_shares(_by_session(late, pl.col("baseline").mean()), late.height)
    more_right = pl.col("baseline").cast(pl.Float64) - pl.col("correct")
    curve = arm_curves(session_curves(with_baseline(turns), 20))
    efficiency = equivalent = None
    if isinstance(accuracy, float):
        equivalent = equivalent_examples(accuracy, curve["turn"], curve["accuracy"])
        stateless = None if twin is None else twin.filter(LATE)["correct"].mean()
        if isinstance(stateless, float) and reference.mean is not None:
            efficiency = learning_efficiency(accuracy, stateless, reference.mean)
    return ArmBaseline(
        experiment=experiment,
        arm=arm,
        learner=learner,
        late=reference,
        excess_regret=Estimate.of(_by_session(turns, more_right.sum())),
        learning_efficiency=efficiency,
        equivalent_examples=equivalent,
    )


def _by_session(turns: pl.DataFrame, value: pl.Expr) -> NDArray[np.float64]:
    """Return one value per session."""
    return turns.group_by("path", maintain_order=True).agg(value=value)["value"].to_numpy()
