"""Counterfactual feedback: what past turns would say with other verdicts on the same answers."""

from collections.abc import Sequence
from dataclasses import replace

from icl_loop.core.errors import InputError
from icl_loop.core.records import Turn, Verdicts, keyed_index, keyed_order
from icl_loop.tasks.prompts import ParsedFeedback
from icl_loop.tasks.task import Task

Lines = Sequence[ParsedFeedback]
"""The feedback after one turn: about several answers if verdicts are told together."""


def counterfactual(
    verdicts: Verdicts, turns: Sequence[Turn], task: Task, past: Sequence[Turn]
) -> list[str]:
    """Return the feedback on `turns`, which one request shows, under these verdicts.

    The form of the feedback, the answers that it repeats and the reasons that it gives stay.

    Args:
        verdicts: `told` leaves the feedback as it is. `flipped` exchanges each right or wrong for
            its opposite. `shuffled` exchanges the verdicts among the turns at random. `removed`
            replaces each by the neutral acknowledgement of the feedback `none`.
        turns: The turns in the order in which the request shows them.
        task: The task of the session.
        past: All turns played, whose number keys the shuffling.

    Raises:
        InputError: The feedback on a turn is not from the prompt set.
    """
    told = [turn.feedback.told for turn in turns]
    if verdicts == "told":
        return told
    if verdicts == "removed" and task.feedback.form == "plain" and task.feedback.every == 1:
        return [task.prompts.told.recorded] * len(told)
    heard = [_parsed(turn, task) for turn in turns]
    changed: Sequence[Lines]
    pairs = list(zip(turns, heard, strict=True))
    if verdicts == "removed":
        changed = [[replace(each, correct=None, label=None) for each in lines] for lines in heard]
    elif verdicts == "flipped":
        changed = [[_flipped(each, turn, task, past) for each in lines] for turn, lines in pairs]
    else:
        changed = _shuffled(pairs, task, past)
    return [
        turn.feedback.told if new == old else _text(new, task)
        for (turn, old), new in zip(pairs, changed, strict=True)
    ]


def _text(lines: Lines, task: Task) -> str:
    feedback = task.feedback
    words = (task.prompts.word(each, feedback.form, batched=feedback.every > 1) for each in lines)
    return "\n".join(words)


def _flipped(told: ParsedFeedback, turn: Turn, task: Task, past: Sequence[Turn]) -> ParsedFeedback:
    """Return the feedback on an answer with right and wrong exchanged, told after `turn`.

    Where only one of right and wrong is told, it changes places with the acknowledgement that stands
    for the other.
    """
    feedback, correct = task.feedback, told.correct
    if correct is None and feedback.judged_after(turn.index):
        correct = feedback.unspoken
    if correct is None:
        return told
    if told.label is not None:
        return _revealing(told, past[turn.index - told.ago], task, correct=not correct)
    if feedback.unspoken == (not correct):
        return replace(told, correct=None)
    return replace(told, correct=not correct, ago=told.ago or feedback.delay)


def _shuffled(pairs: Sequence[tuple[Turn, Lines]], task: Task, past: Sequence[Turn]) -> list[Lines]:
    """Return the feedback after each turn with the verdicts exchanged among the answers."""
    feedback = task.feedback
    is_due = [feedback.every == 1 or bool(feedback.judged_after(turn.index)) for turn, _ in pairs]
    told = [each for (_, lines), due in zip(pairs, is_due, strict=True) for each in lines if due]
    order = iter(keyed_order(len(told), *task.key, "shuffled verdicts", len(past)).tolist())
    return [
        [_transferred(told[next(order)], each, turn, task, past) for each in lines]
        if due
        else lines
        for (turn, lines), due in zip(pairs, is_due, strict=True)
    ]


def _transferred(
    other: ParsedFeedback, own: ParsedFeedback, turn: Turn, task: Task, past: Sequence[Turn]
) -> ParsedFeedback:
    """Return the feedback `own`, told after `turn`, with the verdict of `other`."""
    if (other.correct, other.label, other.ago) == (own.correct, own.label, own.ago):
        return own
    ago = other.ago if task.feedback.every == 1 else own.ago
    moved = replace(own, correct=other.correct, label=other.label, ago=ago)
    if moved.label is None or moved.correct is None:
        return moved
    return _revealing(moved, past[turn.index - own.ago], task, correct=moved.correct)


def _revealing(told: ParsedFeedback, turn: Turn, task: Task, *, correct: bool) -> ParsedFeedback:
    """Return feedback that calls the answer of `turn` right or wrong and reveals a fitting label.

    It is the answer if that is called right, and otherwise a random other label. For an answer that
    could not be read it is any label.
    """
    label, others = turn.answer, [each for each in task.labels if each != turn.answer]
    if label is None or not correct:
        label = others[keyed_index(len(others), *task.key, "counterfactual label", turn.index)]
    return replace(told, correct=correct, label=label)


def _parsed(turn: Turn, task: Task) -> Lines:
    told = turn.feedback.told
    heard = task.prompts.parse_feedback(told, task.labels)
    if not heard:
        raise InputError(
            f"turn {turn.index}: the feedback {told!r} is not from the prompt set"
            " of the session, so its verdict cannot be changed"
        )
    return heard
