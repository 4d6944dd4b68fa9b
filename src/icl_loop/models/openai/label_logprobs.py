"""Log probabilities of labels, from those of the tokens of a reply."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from icl_loop.core.errors import InputError
from icl_loop.core.messages import LARGEST_LOGPROB, Finish
from icl_loop.tasks.answers import AnswerParser
from icl_loop.tasks.label_mentions import Labels
from icl_loop.tasks.labels import SINGLE_TOKENS

_MOST_MENTIONS = 16
"""Only this many of the last mentions of a label can be the answer, to bound the time."""
MOST_UNDECIDED = 0.01
"""Alternatives that may begin several labels can have at most this probability together."""
_BEGINNING = re.compile(r"[a-zà-ԯ]+|.", re.DOTALL)

_WHOLE_TOKENS = frozenset(SINGLE_TOKENS)


class _Names:
    """The labels of a session, and which of them a piece of a reply can begin."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = Labels(labels)
        folded = {label: self.labels.fold(label) for label in labels}
        self._longer = {
            label: {
                other
                for other in labels
                if folded[other].startswith(folded[label]) and not {label, other} <= _WHOLE_TOKENS
            }
            for label in labels
        }

    def begun_by(self, text: str) -> set[str]:
        """Return the labels that begin with `text`, such as C and C++ for the text C."""
        begun = self.labels.begun_by(text)
        return begun.union(*(self._longer[label] for label in begun))


_names = lru_cache(maxsize=64)(_Names)


def check_labels(labels: Sequence[str]) -> None:
    """Raise InputError if two labels can begin with the same token, whatever the tokeniser.

    A reply lists the alternatives to its own tokens only. The probability of such a token is shared
    by both labels, and the tokens that would tell them apart are not listed unless the reply takes
    that way. A token is taken to be a word of an alphabet, or its beginning if another label consists
    of that, or another character. Abstract names are whole tokens.
    """
    beginnings = {label: _BEGINNING.match(label.strip().casefold()) for label in labels}
    words = sorted((begin[0], label) for label, begin in beginnings.items() if begin)
    for (first, label), (second, other) in pairwise(words):
        if second.startswith(first) and not {label, other} <= _WHOLE_TOKENS:
            raise InputError(
                f"model.answer_format = 'logprobs' cannot score the labels {label!r} and {other!r},"
                " because both can begin with the same token; use task.labels = 'abstract', labels"
                " that begin with different words, or model.answer_format = 'text'"
            )


class _Token(NamedTuple):
    """A token of the reply, and the alternatives to it, each with its log probability."""

    text: str
    logprob: float
    alternatives: Sequence[tuple[str, float]]


def label_logprobs(
    listed: object, text: str, finish: Finish, labels: Sequence[str], parse: AnswerParser
) -> Mapping[str, float] | None:
    """Return the natural log probability that the reply answers each label, or None.

    A label that differs from the answer from a token on has the log probability of the alternatives
    that begin it and no other label there, added to those of the tokens of the answer before. This is
    exact for all labels that are listed. None is returned if the answer has no finite log probability,
    or if alternatives that can begin several labels have more than `MOST_UNDECIDED` together.

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
    known, pieces = _names(tuple(labels)), [token.text for token in tokens]
    names, whole = known.labels, "".join(pieces)
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
    found = _walk(tokens[first:], pieces[first][: start - before], answer, known)
    return found and {label: found[label] for label in labels if label in found}


def _walk(
    tokens: Sequence[_Token], lead: str, answer: str, names: "_Names"
) -> dict[str, float] | None:
    """Return the log probability of each label, or None if too much of it cannot be attributed.

    `lead` is the text of the first token before the answer.
    """
    found: dict[str, float] = {}
    undecided = 0.0
    said, total = "", 0.0
    for token in tokens:
        own = token.text.removeprefix(lead)
        is_last = names.begun_by(said + own) == {answer}
        options = {**dict(token.alternatives), token.text: token.logprob}
        for text, logprob in options.items():
            if not math.isfinite(logprob) or (text == token.text and not is_last):
                continue
            labels = names.begun_by(said + text.removeprefix(lead))
            if len(labels) == 1:
                (label,) = labels
                found[label] = _log_sum(total + logprob, found.get(label, -math.inf))
            elif labels:
                undecided += math.exp(min(total + logprob, 0.0))
        said, total, lead = said + own, total + token.logprob, ""
        if is_last or not math.isfinite(total) or not names.begun_by(said):
            break
    return found if answer in found and undecided <= MOST_UNDECIDED else None


def _log_sum(first: float, second: float) -> float:
    """Return log(exp(first) + exp(second)), at most 0."""
    low, high = sorted((first, second))
    return min(0.0, high + math.log1p(math.exp(low - high)))


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
            if not isinstance(logprob, int | float) or abs(logprob) > LARGEST_LOGPROB:
                logprob = math.nan
            yield text, float(logprob)
