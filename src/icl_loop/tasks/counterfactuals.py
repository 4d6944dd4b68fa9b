"""Counterfactual feedback: what past turns would say with other verdicts on the same answers."""

from collections.abc import Sequence

from icl_loop.core.errors import InputError
from icl_loop.core.records import Turn, Verdicts, keyed_index, keyed_order
from icl_loop.tasks.prompts import ParsedFeedback
from icl_loop.tasks.task import Task


def counterfactual(verdicts: Verdicts, turns: Sequence[Turn], task: Task, played: int) -> list[str]:
    """Return the feedback on `turns`, the past turns of one request, under these verdicts.

    Args:
        verdicts: `told` leaves the feedback as it is. `flipped` exchanges each right or wrong for
            its opposite. `shuffled` exchanges the verdicts among the turns at random. `removed`
            replaces each by the neutral acknowledgement of the feedback `none`.
        turns: The turns in the order in which the request shows them.
        task: The task of the session.
        played: Number of turns played, which keys the shuffling.

    Raises:
        InputError: The feedback on a turn is not from the prompt set.
    """
    told = [turn.feedback.told for turn in turns]
    if verdicts == "removed":
        return [task.prompts.told.recorded] * len(told)
    if verdicts == "flipped":
        return [_flipped(turn, task) for turn in turns]
    if verdicts == "shuffled":
        order = keyed_order(len(told), *task.key, "shuffled verdicts", played)
        pairs = zip(turns, order, strict=True)
        return [_transferred(told[place], turn, task) for turn, place in pairs]
    return told


def _flipped(turn: Turn, task: Task) -> str:
    """Return the feedback on a turn with right and wrong exchanged, in the same form.

    Where only one of right and wrong is told, it changes places with the acknowledgement that stands
    for the other.
    """
    feedback, told = task.feedback, turn.feedback.told
    parsed = _parsed(told, turn, task)
    correct, ago = parsed.correct, parsed.ago or feedback.delay
    if correct is None and turn.index >= feedback.delay:
        correct = feedback.unspoken
    if correct is None:
        return told
    if parsed.label is not None:
        return _revealing(turn, task, correct=not correct)
    if feedback.unspoken == (not correct):
        return task.prompts.told.recorded
    phrase = "incorrect" if correct else "correct"
    return task.prompts.tell(f"earlier_{phrase}" if ago else phrase, "", ago)


def _transferred(told: str, turn: Turn, task: Task) -> str:
    """Return the feedback on `turn` if it gets the verdict of `told`, the feedback on another."""
    parsed = _parsed(told, turn, task)
    if parsed.label is None or parsed.correct is None or told == turn.feedback.told:
        return told
    return _revealing(turn, task, correct=parsed.correct)


def _revealing(turn: Turn, task: Task, *, correct: bool) -> str:
    """Return feedback that calls an answer right or wrong and reveals a label that fits this verdict.

    It is the answer if that is called right, and otherwise a random other label. For an answer that
    could not be read it is any label.
    """
    label, others = turn.answer, [each for each in task.labels if each != turn.answer]
    if label is None or not correct:
        label = others[keyed_index(len(others), *task.key, "counterfactual label", turn.index)]
    return task.prompts.tell("revealed_correct" if correct else "revealed_incorrect", label)


def _parsed(told: str, turn: Turn, task: Task) -> ParsedFeedback:
    parsed = task.prompts.parse_feedback(told)
    if parsed is None:
        raise InputError(
            f"turn {turn.index}: the feedback {told!r} is not from the prompt set"
            " of the session, so its verdict cannot be changed"
        )
    return parsed
