"""Parse a label from a model's reply in English or Japanese.

The rule `stated` looks for, in this order: the final line ("Answer: 3"), a first or last line that
consists of a label, and the label that the prose marks, quotes or names most clearly. A label that
the text denies ("not a 3") or uses as a number ("row 3", "a background of 0") does not count. Two
candidates of equal rank are no answer.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

from icl_loop.core.messages import Finish
from icl_loop.core.records import Outcome
from icl_loop.tasks.label_mentions import (
    ALPHANUMERIC,
    IS,
    LETTER,
    NOUN,
    SKIPPED,
    Labels,
    candidates,
    regex,
)
from icl_loop.tasks.reply_marks import FinalText, next_turn, split_reply, without_marks

MAX_CHARACTERS = 2**15
"""Longer replies are parsed from this many characters before their end."""
_SHORT = 200
"""Replies of at most this many characters are parsed once and remembered."""
_LAST_RANK = 3
"""The rank of a mention that any other label after it contradicts."""

AnswerRuleName = Literal["stated", "strict", "last"]


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The label, or None and the reason why there is none."""

    answer: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """How to parse replies.

    Attributes:
        name: `stated` accepts the forms described above; `strict` accepts only a last line in
            exactly the requested form; `last` takes the last label mentioned anywhere.
        aliases: Other names of labels, as (alias, label).
        open: Whether a final line with any other value is an answer too, because the labels are not
            announced.
    """

    name: AnswerRuleName = "stated"
    aliases: tuple[tuple[str, str], ...] = ()
    open: bool = False


STATED = AnswerRule()


class AnswerParser(Protocol):
    """`parse_answer` for one set of labels."""

    def __call__(self, text: str, *, finish: Finish = "stop") -> ParsedAnswer:
        """Return the label that a reply gives, or None with the outcome."""
        ...


def parse_answer(
    text: str,
    labels: Sequence[str],
    finish: Finish = "stop",
    form: str | None = None,
    rule: AnswerRule = STATED,
    openings: Sequence[str] = (),
) -> ParsedAnswer:
    """Return the label that a reply gives, or None with the outcome.

    A filtered reply never counts, nor does one that was cut before its turn ended. `form` is the
    requested final line, containing {label}; `Answer: {label}` and its variants are recognised in
    any case. `openings` are the lines with which a turn may begin after the reply.

    Raises:
        InputError: Two labels cannot be told apart, a label has no letter or digit, or an alias is
            ambiguous or stands for an unknown label.
    """
    parser = _parser(tuple(labels), form or "Answer: {label}", rule, tuple(openings))
    return (_parse_short if len(text) <= _SHORT else _parse)(parser, text, finish)


def _parse(parser: "_Parser", text: str, finish: Finish) -> ParsedAnswer:
    if finish == "content_filter":
        return ParsedAnswer(None, "refusal")
    final = parser.final_text(text)
    if finish == "length" and not final.goes_on:
        return ParsedAnswer(None, "truncated")
    return parser.parse(final.text[-MAX_CHARACTERS:])


_parse_short = lru_cache(2_048)(_parse)  # many sessions get the same replies


def final_text(
    text: str, labels: Sequence[str], form: str | None = None, openings: Sequence[str] = ()
) -> FinalText:
    """Return what a reply says in the end; the arguments are those of `parse_answer`."""
    form = form or "Answer: {label}"
    return _parser(tuple(labels), form, STATED, tuple(openings)).final_text(text)


_SENTENCE = regex(r"(?:(?<=[.!?。])\s*|(?<=[,;:)\]→>-])\s+)(?=(?:final )?answer\s?:|答え\s?:)")
_FINAL = regex(
    r"[\W_]*(?:\d[.)]\s*)?(?:(?:so|thus|therefore|hence|したがって|よって|つまり)[,、]?\s*)?"
    r"(?:(?:the|my|私の|die|la|a)\s*)?"
    r"(?:(?:final|best|most likely|correct|predicted|最終的な|最终|最終|我的)\s*)?"
    rf"(?:{NOUN}|(?:ans|guess|classification|output|result|conclusion|choice|decision|verdict)\b"
    r"|(?:antwort|respuesta|réponse|risposta|resposta|ответ)\b|정답|답"
    r"|name\s?\([^()]{0,40}\)|回答|答案?|解答|予測|預測|预测|結果|结果|标签|標籤)"
    rf"""["']?(?P<link>(?P<colon>\s*:)|(?!\s+was\b){IS}:?|\s*(?:[=-]+>?|→|⇒))?"""
)
_KEY = regex(
    r"[\W_]*(?!not\b|my\b|un|other|previous|earlier|second|alternative)(?:\w{1,20} ){0,2}\w{1,20}:"
)
_REASONS = regex(r"\W{0,5}\b(?:because|since|as|due)\b")
_COLON = regex(r"\s*(?:[:)]|\.\s| - )")
_NOT = regex(r"\bnot\b")
_REFUSAL = regex(
    r"\bi(?:'m| am)? (?:sorry|unable|not able|cannot|can't|can not|won't|will not|refuse)\b"
    r"|申し訳|お断り|(?:答え|判断|判別|特定|認識)(?:られ|でき)(?:ません|かね)|(?:わか|分か)りません"
)
_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")
_NUMBER = re.compile(r"[\W_]*\d+[\W_]*")
_VALUE = re.compile(r"\w.{0,99}")
_AROUND = " .*_`'\"“”"


class _Parser:
    """Parses answers for one set of labels."""

    def __init__(
        self, labels: tuple[str, ...], form: str, rule: AnswerRule, openings: tuple[str, ...]
    ) -> None:
        rules = {"stated": self.stated, "strict": self.strict, "last": self.last}
        self._closed, self._next_turn = rules[rule.name], next_turn(openings)
        self.parse = self.open if rule.open else self._closed
        self._labels = Labels(labels, rule.aliases)
        self._exact = {**dict(rule.aliases), **dict(zip(labels, labels, strict=True))}
        line = next((line for line in form.splitlines() if "{label}" in line), "")
        self._before, _, self._after = line.strip().partition("{label}")
        before, after = (self._labels.fold(each).strip() for each in (self._before, self._after))
        start = re.escape(before) + (r"(?!\w)" if before[-1:].isalnum() else "")
        end = f"(?:{re.escape(after)}){'?' if before else ''}"
        self._form = re.compile(rf"[\W_]*{start}(.+?){end}" if before or after else "(?!)")

    def final_text(self, text: str) -> FinalText:
        """Return the thoughts in a reply, and its text up to where the model made up further turns."""
        return split_reply(text, self._next_turn, self._has_answer)

    def _has_answer(self, text: str) -> bool:
        """Return whether a text has a final line, or a line that is a label."""
        text = without_marks(text[-MAX_CHARACTERS:])
        lines = _lines(self._labels.fold(text))
        return bool(self._final_line(lines) or self._lone_line(lines))

    def open(self, text: str) -> ParsedAnswer:
        """Parse by the rule; if the last line of the requested form names no label, it is the answer.

        Its case and the marks around it do not count.
        """
        for line in reversed(text.splitlines()):
            if match := self._form.fullmatch(self._labels.fold(line).strip()):
                parsed, value = self._closed(line), match[1].strip(_AROUND)
                is_value = parsed.answer is None and _VALUE.fullmatch(value)
                return ParsedAnswer(value, "ok") if is_value else parsed
        return self._closed(text)

    def stated(self, text: str) -> ParsedAnswer:
        """Parse by the rule `stated`."""
        text = self._labels.fold(text[-MAX_CHARACTERS:])[-MAX_CHARACTERS:]  # NFKC may lengthen it
        lines = _lines(text)
        return (
            self._final_line(lines)
            or self._lone_line(lines)
            or self._clearest(text)
            or _no_answer(text)
        )

    def strict(self, text: str) -> ParsedAnswer:
        """Parse by the rule `strict`."""
        line = text.rstrip().rpartition("\n")[2].strip()
        value = line.removeprefix(self._before).removesuffix(self._after)
        if line != f"{self._before}{value}{self._after}":
            refused = _REFUSAL.search(self._labels.fold(text))
            return ParsedAnswer(None, "refusal" if refused else "unreadable")
        label = self._exact.get(value)
        return ParsedAnswer(label, "ok" if label else "out_of_set")

    def last(self, text: str) -> ParsedAnswer:
        """Parse by the rule `last`."""
        text = self._labels.fold(text)[-MAX_CHARACTERS:]
        mentions = self._labels.find(text)
        return ParsedAnswer(mentions[-1].label, "ok") if mentions else _no_answer(text)

    def _final_line(self, lines: Sequence[str]) -> ParsedAnswer | None:
        """Parse the last final line that has a value; the line before it must not contradict it."""
        for index in range(len(lines) - 1, -1, -1):
            if parsed := self._final(lines, index):
                before = self._final(lines, index - 1) if index else None
                if before and before.answer and parsed.answer:
                    return _only({before.answer, parsed.answer})
                return parsed
        return None

    def _final(self, lines: Sequence[str], index: int) -> ParsedAnswer | None:
        """Parse a line if it is a final one; its value may be on the next line."""
        line = lines[index].rstrip()
        if match := self._form.fullmatch(line):
            return self._value(match[1], colon=True)
        if not (match := _FINAL.match(line)):
            return None
        value = line[match.end() :]
        if not ALPHANUMERIC.search(value):
            return self._value("".join(lines[index + 1 : index + 2]), colon=False)
        if not match["link"]:
            return _only(self._alone(value))
        return self._value(value, colon=bool(match["colon"]))

    def _value(self, value: str, *, colon: bool) -> ParsedAnswer | None:
        """Parse what follows "Answer:", or "The answer is" if there is no colon."""
        if label := self._exact.get(value.strip()):
            return ParsedAnswer(label, "ok")
        value = _DECIMALS.sub("", value)
        mentions = [mention for mention in self._labels.find(value) if not mention.denied]
        if mentions and SKIPPED.fullmatch(value, 0, mentions[0].start):
            return _only(candidates(value, mentions, 0))
        if named := self._clearest(value):
            return named
        early = len(mentions) == 1 and len(value[: mentions[0].start].split()) < 3  # "Iris setosa"
        if colon and early and LETTER.search(mentions[0].label):
            return ParsedAnswer(mentions[0].label, "ok")
        none = _no_answer(value)
        if none.outcome != "unreadable":
            return none
        return ParsedAnswer(None, "out_of_set") if colon and len(value.split()) == 1 else None

    def _lone_line(self, lines: Sequence[str]) -> ParsedAnswer | None:
        """Return the label that is all of the first or last line, unless it is among numbers.

        A label of letters may follow a key such as "Species:", or precede the reasons for it.
        """
        if not lines:
            return None
        labels, first = set(), lines[0]
        if len(lines) > 1 and " " in first.strip():
            first += " …"  # "a" at its end may be an article
        for line, beside in ((first, lines[1:2]), (lines[-1], lines[-2:-1])):
            if all(map(LETTER.search, beside)) and not line.rstrip().endswith("?"):
                key = _KEY.match(line)
                keyed = self._alone(line[key.end() :]) if key else set[str]()
                labels |= self._alone(line) | set(filter(LETTER.search, keyed))
        if not labels and (labels := self._leading(first)):  # unless it begins a list of labels
            labels = labels.union(*map(self._leading, lines[1:]))
        return _only(labels)

    def _alone(self, text: str) -> set[str]:
        """Return the one label in `text`, if there is nothing else but articles and denied labels."""
        if not SKIPPED.fullmatch(_NOT.sub("", self._labels.pattern.sub(" ", text))):
            return set()
        labels = {mention.label for mention in self._labels.find(text) if not mention.denied}
        return labels if len(labels) == 1 else set()

    def _leading(self, line: str) -> set[str]:
        """Return the label of letters with which a line begins, if reasons follow.

        The line may also consist of the label and one more word, as in "Iris setosa".
        """
        found = [each for each in self._labels.find(line) if LETTER.search(each.label)]
        named = {mention.label for mention in found}
        if not found or found[0].denied:
            return set()
        if len(line.split()) == 2 and SKIPPED.fullmatch(line, found[0].end):
            return named
        is_first = SKIPPED.fullmatch(line, 0, found[0].start)
        after = found[0].after
        is_led = _REASONS.match(after) or (len(named) == 1 and _COLON.match(after))
        return {found[0].label} if is_first and is_led else set()

    def _clearest(self, text: str) -> ParsedAnswer | None:
        """Return the label that the prose gives most clearly."""
        mentions = self._labels.find(text)
        ranks = [mention.rank for mention in mentions]
        for rank in range(_LAST_RANK + 1):
            found = [
                candidates(text, mentions, index)
                for index, mention in enumerate(mentions)
                if ranks[index] == rank and not mention.denied
            ]
            if found and rank == _LAST_RANK:
                last = max(index for index, each in enumerate(ranks) if each == rank)
                found += [{each.label} for each in mentions[last:] if not each.denied]
            if found:
                return _only(set().union(*found))
        return None


_parser = lru_cache(maxsize=64)(_Parser)


def _lines(text: str) -> list[str]:
    """Return the lines that contain a letter or digit; "... Answer: 3" counts as two."""
    parts = (part for line in text.splitlines() for part in _SENTENCE.split(line))
    return [part for part in parts if ALPHANUMERIC.search(part)]


def _only(labels: Collection[str]) -> ParsedAnswer | None:
    """Return the label if it is the only one, or None if there is none."""
    if len(labels) > 1:
        return ParsedAnswer(None, "unreadable")
    return ParsedAnswer(min(labels), "ok") if labels else None


def _no_answer(text: str) -> ParsedAnswer:
    if _REFUSAL.search(text):
        return ParsedAnswer(None, "refusal")
    return ParsedAnswer(None, "out_of_set" if _NUMBER.fullmatch(text) else "unreadable")
