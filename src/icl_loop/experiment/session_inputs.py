"""What a session reads from files: samples in their order, probes, exemplars, reasons and prompts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from icl_loop.core.errors import DatasetError
from icl_loop.core.records import Sample
from icl_loop.experiment.choice_settings import ChoiceSettings
from icl_loop.experiment.sample_order import ordered
from icl_loop.experiment.settings import Settings
from icl_loop.tasks.datasets import Dataset
from icl_loop.tasks.prompts import PromptSet, open_prompt_set
from icl_loop.tasks.reasons import Reasons, reasons_for


@dataclass(frozen=True, slots=True)
class SessionInputs:
    """What a session reads from files, so that it can be played on a machine without them.

    `labels` are the names of the classes; `samples` has one sample per turn, and so has `reasons` if
    verdicts come with reasons; `candidates` has the samples among which those of some turns are chosen.
    """

    labels: tuple[str, ...]
    samples: list[Sample]
    probes: list[Sample]
    exemplars: list[Sample]
    prompts: PromptSet
    reasons: list[Reasons] = field(default_factory=list)
    candidates: dict[int, list[Sample]] = field(default_factory=dict)


def session_inputs(
    settings: Settings,
    dataset: Dataset,
    turns: int,
    key: tuple[int, int],
    parent_turns: int | None = None,
    played: int | None = None,
) -> SessionInputs:
    """Return the inputs of a session.

    Args:
        settings: The settings of its arm.
        dataset: The data set.
        turns: Planned number of turns.
        key: Seed and stream.
        parent_turns: Planned number of turns of the session that it branched off.
        played: Number of turns that it can play at most, if its donor played fewer than planned.

    Raises:
        DatasetError: The data set has too few samples, or no reasons can be given for them.
    """
    draw, probes = settings.task.draw, settings.probes
    choice = settings.task.choice
    more = (choice.among - 1) * len(choice.turns(turns)) if choice else 0
    held_out = dataset.probes(probes.count, turns + more, *key, draw) if probes.at else ()
    parent = (parent_turns or turns) + more
    first = _exemplars(settings, dataset, turns + more, key, parent, set(held_out))
    drawn = dataset.stream(turns + more, *key, draw)
    stream = ordered(drawn[:turns], dataset, settings.task, key)[:played]
    return SessionInputs(
        labels=dataset.labels,
        samples=[dataset[index] for index in stream],
        probes=[dataset[index] for index in held_out],
        exemplars=[dataset[index] for index in first],
        prompts=open_prompt_set(settings.task.prompts),
        reasons=reasons_for(dataset, stream) if settings.feedback.form == "reason" else [],
        candidates=_candidates(choice, dataset, drawn, turns, len(stream)) if choice else {},
    )


def _candidates(
    choice: ChoiceSettings, dataset: Dataset, drawn: Sequence[int], turns: int, played: int
) -> dict[int, list[Sample]]:
    """Return the candidates of each turn: the sample of the stream and others, which differ by turn.

    So a session has the fixed turns of its stream, whatever is chosen.
    """
    size = choice.among - 1
    return {
        turn: [dataset[index] for index in (drawn[turn], *drawn[start : start + size])]
        for turn, start in zip(choice.turns(turns), range(turns, len(drawn), size), strict=True)
        if turn < played
    }


def _exemplars(
    settings: Settings,
    dataset: Dataset,
    turns: int,
    key: tuple[int, int],
    parent_turns: int,
    others: Collection[int],
) -> Sequence[int]:
    """Return the samples shown first, a branch's are its parent's; they must not be `others`."""
    count, draw = settings.context.exemplars, settings.task.draw
    if not count:
        return ()
    drawn = dataset.exemplars(count, parent_turns, *key, draw)
    if parent_turns < turns:
        others = {*others, *dataset.stream(turns, *key, draw)}
    if not set(drawn).isdisjoint(others):
        raise DatasetError(
            f"{dataset.name}: the samples are too few for {turns} turns,"
            f" {count} exemplars of each class and {settings.probes.count} probes that all"
            " differ; use fewer of these or a larger data set"
        )
    return drawn
