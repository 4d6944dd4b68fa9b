"""Reading a label out of free text in English or Japanese, or saying why none can be read.

Nothing is guessed. The stated final line comes first; then a label that is named as the answer
or set in quotes or brackets, if it is the only one; else there is no answer.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from icl_loop.errors import InputError
from icl_loop.messages import Finish
from icl_loop.records import Outcome


@dataclass(frozen=True, slots=True)
class Reading:
    """The label that was read, or None, the class of outcome, and the reason in words."""

    answer: str | None
    outcome: Outcome
    reason: str = ""


def read(text: str, labels: Sequence[str], finish: Finish = "stop") -> Reading:
    """Return the label that `text` answers, or None with the reason.

    Args:
        text: What the model wrote.
        labels: The labels it may answer.
        finish: Why it stopped; a reply cut at its length limit or withheld by a filter is no
            answer, whatever it holds.

    Raises:
        InputError: Two labels read the same.
    """
    if finish == "length":
        return Reading(None, "truncated", "the reply was cut off at its length limit")
    if finish == "content_filter":
        return Reading(None, "refusal", "the reply was withheld by a content filter")
    return _reader(tuple(labels)).read(_plain(text))


_EMPHASIS = re.compile(r"\*\*|__|`|\$|\\boxed")
_CURLY = str.maketrans("“”‘’«»＂", '""\'\'"""')


def _plain(text: str) -> str:
    """Fold full-width forms (NFKC), straighten quotes, drop emphasis."""
    return _EMPHASIS.sub("", unicodedata.normalize("NFKC", text).translate(_CURLY))


_NUMERALS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905  as read
_WORDS = {
    **{word: str(value) for value, word in enumerate(_NUMERALS)},
    **{kanji: str(value) for value, kanji in enumerate("〇一二三四五六七八九")},
}

_OPEN, _CLOSE = r"""["'「『【\[(<{]""", r"""["'」』】\])>}]"""
_COPULA = r"(?:です|だ|である|でしょう|だと思います|と思います|と思われます)"
_BE = r"(?:\s+(?:is|was)|\s*(?:の|は|:))?"
_NOUN = (
    r"(?:(?<!row )(?<!column )(?<!line )"
    r"\b(?:digit|numeral|number|class|category|label|letter)s?|数字|文字|ラベル|番号)"
)
_SHOWS = (
    r"\b(?:it|this|that|which|image|picture|array|shape|drawing|answer|guess|choice)"
    r"(?:'s|\s+(?:is|was|shows|depicts|represents|resembles|looks like|must be"
    r"|appears to be|seems to be))\s+"
    r"(?:(?:most )?(?:likely|probably|clearly|definitely)\s+)?"
)
_FINAL = re.compile(
    r"^\W*(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+|my\s+)?(?:final\s+)?"
    r"(?:answer|label|prediction|最終的な答え|最終回答|答え|答|回答|解答|ラベル)"
    r"(?P<link>\s+is\b\s*:?|\s*は|\s*[:=\-]+)?\s*(?P<value>.*)$",
    re.IGNORECASE,
)
_LEAD = (
    rf"(?:(?:probably|likely|a|an|the|handwritten|digit|number|class|label|数字の?)\s*|{_OPEN}\s*)*"
)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n't|never|neither|nor|rather than|instead of)\s+(?:\w+\s+){0,2}[\"'「\[(]?$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(r"[\"'」\])]?\s*(?:では(?:な|あり)|じゃ(?:な|あり)|とは違)")
_REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:sorry|unable|not able)\b"
    r"|\bI (?:cannot|can't|can not|won't|will not|must decline|refuse)\b"
    r"|\b(?:unable|not able) to (?:help|assist|answer|determine|identify|say)\b"
    r"|申し訳|お答えできません|答えられません|お断り|判断できません|できかねます",
    re.IGNORECASE,
)


@lru_cache(maxsize=64)
def _reader(labels: tuple[str, ...]) -> "_Reader":
    return _Reader(labels)


class _Reader:
    """The patterns for one set of labels."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        names = {_plain(label): label for label in labels}
        folded = {name.casefold(): label for name, label in names.items()}
        if len(names) != len(labels):
            raise InputError(f"two of these labels read the same: {', '.join(labels)}")
        self.ignore_case = len(folded) == len(labels)
        self.labels = folded if self.ignore_case else names
        spoken = {word: digit for word, digit in _WORDS.items() if digit in self.labels}
        label = self._alternatives(self.labels)
        either = self._alternatives({**spoken, **self.labels})
        self.spoken = {**spoken, **self.labels}
        self.whole = self._compile(rf"[\W_]*{either}\s*{_COPULA}?[\W_]*")
        self.value = self._compile(_LEAD + either)
        self.another = self._compile(
            rf"{_CLOSE}?\s*(?:,|/|\bor\b|\band\b|または|もしくは|か)\s*{_LEAD}{either}"
        )
        self.foreign = self._compile(rf"{_NOUN}{_BE}\s*{_OPEN}?\s*\d+\b")
        self.tiers = [
            self._compile(rf"{_NOUN}{_BE}\s*{_OPEN}\s*{label}\s*{_CLOSE}"),
            self._compile(rf"{_OPEN}\s*{label}\s*{_CLOSE}"),
            self._compile(
                rf"{_NOUN}{_BE}\s*{label}|{_SHOWS}(?:a|an|the)\s+(?:\w+\s+)?{label}"
                rf"|{_SHOWS}{label}(?=\s*(?:[.,;!?\n]|$))"
                rf"|{label}\s*(?:{_COPULA}|に見え|を表|を示)"
            ),
        ]

    def _compile(self, pattern: str) -> re.Pattern[str]:
        return re.compile(pattern, re.IGNORECASE if self.ignore_case else 0)

    @staticmethod
    def _alternatives(names: dict[str, str]) -> str:
        """Return a group of the names, longest first, that never matches a part of a number."""
        longest_first = sorted(names, key=len, reverse=True)
        words = "|".join(re.escape(name) for name in longest_first)
        return rf"((?<![A-Za-z0-9_.\-])(?:{words})(?![A-Za-z0-9_\-]|\.\d))"

    def read(self, text: str) -> Reading:
        """Return the reading of plain `text`."""
        if match := self.whole.fullmatch(text):
            return Reading(self._label(match), "ok")
        return self._stated(text) or self._free(text)

    def _stated(self, text: str) -> Reading | None:
        """Return the reading of the last stated final line, if there is one to be read."""
        readings: list[tuple[int, Reading]] = []
        lines = [line for line in text.splitlines() if line.strip()]
        for index, line in enumerate(lines):
            match = _FINAL.match(line)
            if match is None:
                continue
            value = match["value"] or (lines[index + 1] if index + 1 < len(lines) else "")
            reading = self._value(value, linked=bool(match["link"]) or not match["value"])
            if reading is not None:
                readings.append((index, reading))
        if not readings:
            return None
        last, reading = readings[-1]
        before = dict(readings[:-1]).get(last - 1, reading)
        if before.answer != reading.answer:
            return Reading(None, "unreadable", "two answers in a row")
        return reading

    def _value(self, value: str, *, linked: bool) -> Reading | None:
        """Return what stands behind "Answer:"; without the colon only a bare label counts."""
        if match := self.whole.fullmatch(value):
            return Reading(self._label(match), "ok")
        if not linked:
            return None
        if match := self.value.match(value.lstrip()):
            return self._only([match], value.lstrip())
        if re.fullmatch(r"\W*[\w./\-]+\W*", value):
            return Reading(None, "out_of_set", f"{value.strip()!r} is not one of the labels")
        return None

    def _free(self, text: str) -> Reading:
        """Return the one label that is named or quoted, from the surest form to the loosest."""
        for tier in self.tiers:
            found = [match for match in tier.finditer(text) if not self._denied(match, text)]
            if found:
                return self._only(found, text)
        if _REFUSAL.search(text):
            return Reading(None, "refusal", "the model declined to answer")
        if self.foreign.search(text) or re.fullmatch(r"\W*\d+\W*", text):
            return Reading(None, "out_of_set", "the number named is not one of the labels")
        return Reading(None, "unreadable", "no label is stated, named or quoted")

    def _only(self, found: list[re.Match[str]], text: str) -> Reading:
        labels = {self._label(match) for match in found}
        for match in found:
            if other := self.another.match(text, match.end()):
                labels.add(self._label(other))
        if len(labels) > 1:
            return Reading(None, "unreadable", f"two answers: {', '.join(sorted(labels))}")
        return Reading(labels.pop(), "ok")

    @staticmethod
    def _denied(match: re.Match[str], text: str) -> bool:
        start, end = match.span(match.lastindex or 0)
        return bool(
            _DENIED_BEFORE.search(text[max(0, start - 40) : start])
            or _DENIED_AFTER.match(text, end)
        )

    def _label(self, match: re.Match[str]) -> str:
        name = match[match.lastindex or 0]
        return self.spoken[name.casefold() if self.ignore_case else name]
