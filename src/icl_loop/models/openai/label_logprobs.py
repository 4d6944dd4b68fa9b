"""Log probabilities of labels, from those of the tokens of a reply."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from icl_loop.core.messages import Finish
from icl_loop.tasks.answers import AnswerParser
from icl_loop.tasks.label_mentions import Labels

_MOST_MENTIONS = 16
"""Only this many of the last mentions of a label can be the answer, to bound the time."""
_labels = lru_cache(maxsize=64)(Labels)


class _Token(NamedTuple):
    """A token of the reply, and the alternatives to it, each with its log probability."""

    text: str
    logprob: float
    alternatives: Sequence[tuple[str, float]]


def label_logprobs(
    listed: object, text: str, finish: Finish, labels: Sequence[str], parse: AnswerParser
) -> Mapping[str, float] | None:
    """Return the natural log probability of each label at the tokens of the answer, or None.

    A label that differs from the answer from a token on has the log probability of the alternative
    that begins it there, added to those of the tokens of the answer before. Only finite numbers count.

    Args:
        listed: The field `logprobs` of a choice.
        text: The reply.
        finish: Why it ended.
        labels: The labels.
        parse: Parses replies.
    """
    tokens = list(_tokens(listed))
    answer = parse(text, finish=finish).answer if tokens and labels else None
    if answer is None:
        return None
    names, pieces = _labels(tuple(labels)), [token.text for token in tokens]
    whole = "".join(pieces)
    said = names.fold(whole)
    begin = len(names.fold(whole[: max(0, whole.rfind(text.strip()))]))  # thoughts come before
    mentions = [each for each in names.find(said) if each.label == answer and each.start >= begin]
    for mention in mentions[: -_MOST_MENTIONS - 1 : -1]:
        start = mention.start
        if parse(said[begin:start]).answer != answer:
            break
    else:
        return None
    lengths = ((n, len(names.fold("".join(pieces[:n])))) for n in reversed(range(len(tokens))))
    first, before = next((n, length) for n, length in lengths if length <= start)
    found = _walk(tokens[first:], pieces[first][: start - before], answer, names)
    return {label: found[label] for label in labels if label in found} or None


def _walk(tokens: Sequence[_Token], lead: str, answer: str, names: Labels) -> dict[str, float]:
    """Return the log probability of each label that a token of the answer or an alternative decides.

    `lead` is the text of the first token before the answer.
    """
    found: dict[str, float] = {}
    said, total = "", 0.0
    for token in tokens:
        own = token.text.removeprefix(lead)
        is_last = names.begun_by(said + own) == {answer}
        for text, logprob in (token[:2], *token.alternatives):
            piece = text.removeprefix(lead)
            labels = names.begun_by(said + piece)
            if len(labels) == 1 and math.isfinite(logprob) and (is_last or piece != own):
                (label,) = labels
                found[label] = max(total + logprob, found.get(label, -math.inf))
        said, total, lead = said + own, total + token.logprob, ""
        if is_last or not math.isfinite(total) or not names.begun_by(said):
            break
    return found


def _tokens(listed: object) -> Iterator[_Token]:
    """Yield the tokens in the field `logprobs` of a choice; those of an odd shape are left out."""
    content = listed.get("content") if isinstance(listed, dict) else None
    for fields in content if isinstance(content, list) else ():
        for text, logprob in _scored([fields]):
            alternatives = fields.get("top_logprobs")
            others = _scored(alternatives) if isinstance(alternatives, list) else ()
            yield _Token(text, logprob, list(others))


def _scored(listed: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Yield the text and the log probability of tokens; NaN if it is not a number."""
    for fields in listed:
        if isinstance(fields, dict) and isinstance(text := fields.get("token"), str):
            logprob = fields.get("logprob")
            yield text, float(logprob) if isinstance(logprob, int | float) else math.nan
