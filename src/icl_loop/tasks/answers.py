"""Reading a label out of free text in English or Japanese, or saying why none can be read.

By the rule `stated`, which holds unless another is chosen, nothing is guessed. The stated final line comes first; then a label that is boxed, that has a line
to itself, that is set in quotes or brackets, or that is named as what is seen, if it is the only
one; else there is no answer. A label that is denied, or that is mentioned as a value, a background
or a place in the array, names nothing.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Finish
from icl_loop.core.records import Outcome

LONGEST = 2**15
"""Characters at the end of a reply that are read; the answer stands there."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The label that was read, or None, the class of outcome, and the reason in words."""

    answer: str | None
    outcome: Outcome
    reason: str = ""


AnswerRuleName = Literal["stated", "strict", "last"]
"""How a label is read: as it is stated, by the exact form of the last line, or the last one named."""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """How replies are read.

    Attributes:
        name: `stated`: the stated final line, or else the surest form in which a label is named;
            `strict`: the last line, if it has exactly the form that was asked for; `last`: the last
            label that is named anywhere.
        names: Other names under which labels are accepted, each with its label.
    """

    name: AnswerRuleName = "stated"
    names: tuple[tuple[str, str], ...] = ()


STATED = AnswerRule()


def parse_answer(
    text: str,
    labels: Sequence[str],
    finish: Finish = "stop",
    form: str | None = None,
    rule: AnswerRule = STATED,
) -> ParsedAnswer:
    """Return the label that `text` answers, or None with the reason.

    Args:
        text: What the model wrote; only its last `LONGEST` characters are looked at.
        labels: The labels it may answer.
        finish: Why it stopped; a reply cut at its length limit or withheld by a filter is no
            answer, whatever it holds.
        form: The final line that was asked for, holding {label}; `Answer: {label}` and its like
            are understood in any case.
        rule: How it is read.

    Raises:
        InputError: Two labels read the same, one holds neither a letter nor a digit, or another
            name is given to what is no label.
    """
    reader = _reader(tuple(labels), form, rule)
    if finish == "length":
        return ParsedAnswer(None, "truncated", "the reply was cut off at its length limit")
    if finish == "content_filter":
        return ParsedAnswer(None, "refusal", "the reply was withheld by a content filter")
    return reader.parse(text)


# ---- plain text --------------------------------------------------------------------------

_STRAIGHT = str.maketrans("“”„‟«»‘’‚‛‐‑‒–−", '"' * 6 + "'" * 4 + "-" * 5) | {ord("—"): " - "}
_EMPHASIS = re.compile(
    r"[`$]|\*\*|__"
    r"|(?<![\w*])\*(?=\w)|(?<=\w)\*(?![\w*])|(?<!\w)_(?=[^\W_])|(?<=[^\W_])_(?!\w)"
    r"|\\(?:textbf|text|mathbf|mathrm|[()\[\]])"
)
# Normalizing sorts each run of combining marks in quadratic time, so long runs are cut first, as
# in the Stream-Safe Text Format of Unicode Standard Annex 15.
_MARK = r"(?:[^\w\s\x00-\x7f]|[ﾞﾟ])"
_LONG_RUN = re.compile(rf"({_MARK}{{30}}){_MARK}+")
_THOUGHT = "</think>"


def _plain(text: str) -> str:
    """Fold full-width forms (NFKC), straighten quotes and dashes, drop emphasis."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _LONG_RUN.sub(r"\1", text)).translate(_STRAIGHT)
    return _EMPHASIS.sub("", text)


def _bare(text: str) -> str:
    """Return `text` from its first letter or digit to its last."""
    start, end = 0, len(text)
    while start < end and not text[start].isalnum():
        start += 1
    while start < end and not text[end - 1].isalnum():
        end -= 1
    return text[start:end]


# ---- the words around a label ------------------------------------------------------------

_NUMERALS = "zero one two three four five six seven eight nine".split()  # noqa: SIM905  as read
_SPOKEN = {
    **{word: str(value) for value, word in enumerate(_NUMERALS)},
    **{kanji: str(value) for value, kanji in enumerate("〇一二三四五六七八九")},
    "零": "0",
    "ゼロ": "0",
}
_ARTICLES = {"a", "i"}
"""Labels that are words of many sentences: they count only where nothing else can be meant."""

_OPEN, _CLOSE = r"""["'「『【〈《\[(<{]""", r"""["'」』】〉》\])>}]"""
_APART = r"""(?:(?<![A-Za-z0-9])["'\[(<{]|[「『【〈《])"""  # no call or subscript: row[3]
_COPULAS = (
    *("です", "だ", "である", "でしょう", "ですね", "になります", "となります", "だと思います"),
    *("と思います", "と思われます", "だと考えられます", "と考えられます", "と判断します"),
)
_COPULA = rf"(?:{'|'.join(sorted(_COPULAS, key=len, reverse=True))})(?!け)"
_BE = r"(?:\s+(?:is|was)\b|\s*(?:の|は|:|=))"
_NOUN = (
    r"(?:(?<!row )(?<!column )(?<!line )(?<!pixel )"
    r"\b(?:digit|numeral|number|class|category|label|letter|answer|prediction)"
    r"|数字|文字|ラベル|番号|答え)"
)
_SURELY = r"(?:(?:most likely|likely|probably|clearly|definitely|simply|just)\s+)?"
_SHOWS = (
    r"\b(?:it|this|image|picture|array|shape|drawing|figure|character|digit|answer|guess|choice)"
    rf"(?:\s+(?:shown|depicted|displayed|drawn|written|here))?(?:'s|\s+{_SURELY}(?:is|was|shows|depicts|represents|resembles|looks like|must be|should be"
    rf"|appears to be|seems to be))\s+{_SURELY}"
)
_SAYS = (
    r"\bi(?:'d| would|'ll| will)?\s+(?:say|answer|choose|pick|guess|think|believe|go with|see)\s+"
    rf"(?:(?:it is|it's|this is)\s+)?{_SURELY}"
    r"|\b(?:classif(?:y (?:it|this)|ied)|identif(?:y (?:it|this)|ied)|recogni[sz]ed?|reads) as\s+"
)
_END = r"(?=\s*(?:[.,;!?)\n]|$)|\s+(?:because|since|as|with|based|given|and|but)\b)"
_SKIPPED = (
    r"[\W_]|\b(?:most|likely|probably|clearly|definitely|simply|just|maybe|perhaps|a|an|the|is"
    r"|it|this|it's|handwritten|digit|numeral|number|class|category|label|letter|boxed)\b"
    r"|(?:数字|ラベル)[のは]?|おそらく|たぶん"
)
_OR = r"\bor\b|\band\b|\bversus\b|\bvs\b|または|もしくは|あるいは|か|や|と"
_WORDY = "0-9A-Za-zÀ-ԯ"
"""What a label is not part of a word or number beside; Japanese sets no spaces between words."""
_COUNTER = r"\s?%|つ|本|個|行|列|回|番目|桁|画素|ピクセル|点|箇所|か所|種類|通り|割"

_FINAL = re.compile(
    r"[\W_]*(?:\d[.)]\s*)?(?:(?:so|thus|therefore|hence|したがって|よって|つまり)[,、]?\s*)?"
    r"(?:(?:the|my|私の)\s*)?(?:(?:final|best|most likely|likely|correct)\s+)?"
    r"(?:(?:answer|label|prediction|guess|classification|output|result|digit)\b"
    r"|name\s?\([^()]{0,40}\)|最終的な答え|最終回答|答え|答|回答|解答|予測|結果|ラベル|数字)"
    r"""["']?(?P<link>\s*(?P<colon>:)|\s*(?:=+>?|-+>?|→|⇒)|\s*は"""
    r"|\s+(?:is|was|must be|should be|would be)\b\s*:?)?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?。])\s*(?=(?:final )?answer\s?:|答え\s?:)", re.IGNORECASE)
_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_JOINED = re.compile(rf"[{_WORDY}]{{2}}")
_LETTER = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(rf"{_NOUN}{_BE}?\s*(?:{_OPEN}\s*)?\d+\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able)\b"
    r"|\bi (?:cannot|can't|can not|won't|will not|must decline|refuse)\b"
    r"|\b(?:unable|not able) to (?:help|assist|answer|determine|identify|say)\b"
    r"|申し訳|お答えできません|答えられません|お断り|(?:判断|判別|特定)できません|できかねます"
    r"|(?:わか|分か)りません",
    re.IGNORECASE,
)

# ---- mentions that answer nothing, told by the few characters beside a label --------------

_BESIDE = 60
_FILLER = (
    r"(?:of|is|are|was|were|to|from|between|like|about|near|set|at|only|all|mostly|just|being"
    r"|equal|range|ranging|marked|as|such|that|which|both|\d+(?:\.\d+)?(?:\W{1,3}(?:and|or|to))?)"
)
_WITHIN = r"[^\w.,;!?\n]*"
_MEANS = r"(?:means?|marks?|denotes?|represents?|indicates?|stands for|being|for|as|=)"
_NOT_BEFORE = re.compile(
    # not a 3, rather than 3
    r"(?:(?:not|n't|\bnever|\bneither|\bnor|\brather than|\binstead of|\bunlike)\s+(?:\w+\s+){0,2}"
    r"|\b(?:no|mistaken for|confused with)\s+(?:an?\s+|the\s+)?"
    # background values of 0, row 3
    r"|\b(?:background|entries|(?:value|pixel|cell|entry|zero|row|column|line|index|level)s?)"
    rf"(?:{_WITHIN}\b{_FILLER}\b)*{_WITHIN}"
    # 背景の値は0や1
    r"|(?:背景|値|画素|ピクセル|余白|周囲|周り|行|(?<!配)列)"
    r"(?:(?!数字|文字|絵|画像|図|答|ラベル|形)[^。、.!?\n\d]){0,10}(?:\d[\d.]*(?:や|と|から|~|〜|-))*"
    # from 0 to 9
    rf"|\d\W{{0,3}}(?:to|through|から)\s*){_OPEN}?\s*$",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    rf"{_CLOSE}?(?:"
    # 3ではなく5, 3 is wrong
    r"\s*(?:で(?:は|も)?な[いく]|ではあり|じゃ(?:な|あり)|とは違|以外|というより"
    r"|(?:is|was|would be) (?:not|wrong|incorrect)|isn't|wasn't)"
    # 0s, 0 is used for the background, 0 means dark
    r"|'?s\b|[ \t]*(?:x|×|by)[ \t]*\d|[ \t]+of\b"
    r"|(?:[ \t]*\b(?:is|are|was|were|the|a|used|of|like|surrounding|all|to mark)\b"
    rf"|[ \t]*{_MEANS})*[ \t]*\b(?:background|pixels?|values?|elsewhere|padding|percent"
    r"|rows?|columns?|lines?|strokes?|loops?|times)\b"
    rf"|[ \t]+(?:is\s+)?{_MEANS}[ \t]+(?:the[ \t]+)?(?:dark|bright|black|white|blank|empty|no ink)"
    # 0は背景, 0の画素
    r"|\s*(?:の|は|が|を|で)?(?:暗い|明るい|黒い)?(?:背景|値|画素|ピクセル|余白|行目|列目)"
    # 0 to 9
    rf"|\s*(?:to|through|から|~|〜)\s*{_OPEN}?\d)",
    re.IGNORECASE,
)


def _only_mentioned(match: re.Match[str]) -> bool:
    """Return whether the label of `match` is denied, or stands for something in the array."""
    start, end = match.span(match.lastindex or 0)
    before, after = match.string[max(0, start - _BESIDE) : start], match.string[end : end + _BESIDE]
    return bool(_NOT_BEFORE.search(before) or _NOT_AFTER.match(after))


# ---- patterns for one set of labels ------------------------------------------------------


@dataclass(frozen=True)
class _Patterns:
    """What is looked for: patterns whose last group is a label, each made when it is first needed.

    Attributes:
        labels: The labels as plain text.
        spoken: Numerals in words that stand for some of them.
    """

    labels: tuple[str, ...]
    spoken: tuple[str, ...]

    @cached_property
    def every(self) -> str:
        """Any label or numeral in words."""
        return _alternatives((*self.labels, *self.spoken))

    @cached_property
    def either(self) -> str:
        """The same without the words of every sentence."""
        return _alternatives(name for name in (*self.labels, *self.spoken) if not _is_article(name))

    @cached_property
    def label(self) -> str:
        """A label that is neither such a word nor a numeral in words."""
        return _alternatives(name for name in self.labels if not _is_article(name))

    @cached_property
    def lone(self) -> re.Pattern[str]:
        """The first label of a text of which it may be all."""
        return _compiled(rf"(?:{_SKIPPED})*{self.every}")

    @cached_property
    def first(self) -> re.Pattern[str]:
        """The label that a text begins with."""
        return _compiled(rf"(?:{_SKIPPED})*{self.either}")

    @cached_property
    def further(self) -> re.Pattern[str]:
        """A label that follows on the one before, with or without a word like "or"."""
        return _compiled(rf"(?:{_SKIPPED}|{_OR})*{self.either}")

    @cached_property
    def another(self) -> re.Pattern[str]:
        """A label that is set against the one before by a word like "or" or "but"."""
        return _compiled(
            rf"{_CLOSE}?\s*(?:[,/;&|]|{_OR})(?:{_SKIPPED})*{self.either}"
            rf"|[\W_]*\b(?:but|though|although|however)\b[^.!?\n]{{0,{_BESIDE}}}?{self.label}"
        )

    @cached_property
    def tiers(self) -> tuple[re.Pattern[str], ...]:
        """A label that is marked as the answer, named and set apart, set apart, or named."""
        every, either, label = self.every, self.either, self.label
        return (
            _compiled(
                rf"\\f?boxed\s*\{{+\s*{every}\s*\}}"
                rf"|<(?:answer|label|prediction|digit|output|result)>\s*{every}\s*</"
                rf"|[\"'](?:{_NOUN}|output|result)[\"']\s*:\s*[\"'\[]*\s*{every}"
            ),
            _compiled(rf"{_NOUN}{_BE}?\s*{_OPEN}\s*{every}\s*{_CLOSE}"),
            _compiled(rf"{_APART}\s*{every}\s*{_CLOSE}"),
            _compiled(
                rf"{_NOUN}{_BE}?\s*{label}"
                rf"|{_NOUN}{_BE}\s*(?:(?:a|an|the)\s+)?{every}{_END}"
                rf"|(?:{_SHOWS}|{_SAYS})"
                rf"(?:(?:a|an|the)\s+(?:\w{{1,30}}\s+)?{label}|{either}{_END})"
                rf"|(?<!か)(?<!か、){label}\s*(?:{_COPULA}|に見え|を表|を示|が描かれ|のよう|と読)"
            ),
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _is_article(name: str) -> bool:
    return name.casefold() in _ARTICLES


def _alternatives(names: Iterable[str]) -> str:
    """Return a group of the names, longest first, that never matches a part of a word or number."""
    groups: dict[bool, list[str]] = {False: ["(?!)"], True: ["(?!)"]}
    for name in sorted(names, key=len, reverse=True):
        japanese = "\u3005" <= name[0] <= "\u9fff"
        groups[japanese].append(re.escape(name).replace(r"\ ", r"\s+"))
    words, kana = ("|".join(group) for group in groups.values())
    return (
        rf"(?-i:((?:(?<![_.\-{_WORDY}])(?:{words})(?!_|-\w|\.\d|[{_WORDY}])"
        rf"|(?:(?<!\w)|(?<=[はがのを]))(?:{kana})(?=\W|$|{_COPULA}|[はがのをにとかや]))(?!{_COUNTER})))"
    )


# ---- readers -----------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _reader(labels: tuple[str, ...], form: str | None, rule: AnswerRule) -> "_Reader":
    return _READERS[rule.name](labels, form, rule.names)


class _Reader:
    """Reads answers out of one set of labels."""

    def __init__(
        self,
        labels: tuple[str, ...],
        form: str | None,
        others: Sequence[tuple[str, str]] = (),
    ) -> None:
        for name, label in others:
            if label not in labels:
                raise InputError(f"{name!r} is to be read as {label!r}: {nearest(label, labels)}")
        self._folds = len({_plain(label).casefold() for label in labels}) == len(labels)
        known = {self._known_as(label): label for label in labels}
        if len(known) != len(labels):
            raise InputError(f"two of these labels read the same: {', '.join(labels)}")
        for name, label in others:
            if known.setdefault(self._known_as(name), label) != label:
                raise InputError(f"{name!r} is to be read as {label!r}, but it names another label")
        for name, label in known.items():
            if not _LETTER_OR_DIGIT.search(name):
                raise InputError(f"a label holds a letter or a digit, got {label!r}")
        spoken = {word: digit for word, digit in _SPOKEN.items() if digit in known}
        self._labels = {**spoken, **known}
        before, _, after = self._fold(form or "").partition("{label}")
        self._form = before.rpartition("\n")[2].strip(), after.partition("\n")[0].strip()
        self._patterns = _Patterns(tuple(known), tuple(spoken))

    def parse(self, text: str) -> ParsedAnswer:
        """Return the reading of `text`; thoughts that are marked as such are passed over."""
        plain = self._fold(text[-LONGEST:].rpartition(_THOUGHT)[2])[-LONGEST:]
        parts = (part for line in plain.splitlines() for part in _SENTENCE.split(line))
        lines = [part for part in parts if _LETTER_OR_DIGIT.search(part)]
        return (
            self._stated(lines)
            or self._line_of_its_own(lines)
            or self._named(plain)
            or _none(plain)
        )

    def _stated(self, lines: Sequence[str]) -> ParsedAnswer | None:
        """Return the reading of the last stated final line, if there is one to be read."""
        for index in range(len(lines) - 1, -1, -1):
            reading = self._final(lines, index)
            if reading is not None:
                before = self._final(lines, index - 1) if index else None
                if before and before.answer and reading.answer:
                    return _only({before.answer, reading.answer})
                return reading
        return None

    def _final(self, lines: Sequence[str], index: int) -> ParsedAnswer | None:
        """Return the reading of the line at `index` as a final one; its value may stand below."""
        line = lines[index]
        if value := self._asked_for(line):
            return self._value(value, colon=True)
        match = _FINAL.match(line)
        if match is None:
            return None
        value = line[match.end() :]
        if not _LETTER_OR_DIGIT.search(value):
            return self._value("".join(lines[index + 1 : index + 2]), colon=False)
        if match["link"]:
            return self._value(value, colon=bool(match["colon"]))
        label = self._alone(value)
        return ParsedAnswer(label, "ok") if label else None

    def _asked_for(self, line: str) -> str:
        """Return what stands for the label in a line of the form that was asked for, or nothing."""
        before, after = self._form
        start, _, value = line.partition(before) if before else ("", "", line)
        if _LETTER_OR_DIGIT.search(start) or _JOINED.match(before[-1:] + value[:1]):
            return ""
        said = value.rstrip()
        return said.removesuffix(after) if before or (after and said.endswith(after)) else ""

    def _value(self, value: str, *, colon: bool) -> ParsedAnswer | None:
        """Return the reading of what follows "Answer:", or "The answer is" if without a colon."""
        if label := self._alone(value):
            return ParsedAnswer(label, "ok")
        match = self._patterns.first.match(value)
        if match and not _only_mentioned(match):
            return _only(self._labels_of([match], self._patterns.further))
        if named := self._named(value):
            return named
        if _REFUSAL.search(value):
            return ParsedAnswer(None, "refusal", "the model declined to answer")
        bare = _bare(value)
        if bare and (bare.isdecimal() or (colon and len(bare.split()) == 1)):
            return ParsedAnswer(None, "out_of_set", f"{bare[:40]!r} is not one of the labels")
        return None

    def _line_of_its_own(self, lines: Sequence[str]) -> ParsedAnswer | None:
        """Return the label that is all of the first or the last line, set off by words."""
        ends = [(lines[0], lines[1:2]), (lines[-1], lines[-2:-1])] if lines else []
        labels = {
            label
            for line, (*beside,) in ends
            if all(map(_LETTER.search, beside)) and not line.rstrip().endswith("?")
            if (label := self._alone(line))
        }
        return _only(labels) if labels else None

    def _named(self, text: str) -> ParsedAnswer | None:
        """Return the one label that is boxed, set apart or named, the surest form first."""
        for tier in self._patterns.tiers:
            if labels := self._labels_of(tier.finditer(text), self._patterns.another):
                return _only(labels)
        return None

    def _labels_of(self, found: Iterable[re.Match[str]], more: re.Pattern[str]) -> set[str]:
        """Return the labels that were found or that `more` finds beside them."""
        labels: set[str] = set()
        for match in found:
            beside = more.match(match.string, match.end())
            for each in (match, beside) if beside else (match,):
                if self._label(each) not in labels and not _only_mentioned(each):
                    labels.add(self._label(each))
            if len(labels) > 1:
                break
        return labels

    def _alone(self, text: str) -> str | None:
        """Return the label that is all that `text` says, articles and the like apart."""
        match = self._patterns.lone.match(text)
        if match is None:
            return None
        label, rest = self._label(match), text[match.end() :]
        lead = _bare(text[: match.start(match.lastindex or 0)]).split()
        if _is_article(label) and lead and lead[-1] not in {"letter", "label", "class"}:
            return None
        said = _bare(rest)
        again = rest.lstrip().startswith("(") and self._labels.get(said) == label
        return label if not said or said in _COPULAS or again else None

    def _label(self, match: re.Match[str]) -> str:
        return self._labels[" ".join(match[match.lastindex or 0].split())]

    def _known_as(self, label: str) -> str:
        return " ".join(self._fold(label).split())

    def _fold(self, text: str) -> str:
        plain = _plain(text)
        return plain.casefold() if self._folds else plain


class _StrictReader(_Reader):
    """Reads the last line alone, letter by letter in the form that was asked for."""

    def __init__(
        self,
        labels: tuple[str, ...],
        form: str | None,
        others: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(labels, form, others)
        asked = form or "Answer: {label}"
        line = next(line for line in asked.splitlines() if "{label}" in line)
        self._before, _, self._after = line.strip().partition("{label}")
        self._exact = {**dict(others), **{label: label for label in labels}}

    def parse(self, text: str) -> ParsedAnswer:
        """Return the label in the last line that is not blank."""
        line = text.rstrip()[-LONGEST:].rpartition("\n")[2].strip()
        value = line.removeprefix(self._before).removesuffix(self._after)
        if line != f"{self._before}{value}{self._after}":
            none = _none(self._fold(text[-LONGEST:].rpartition(_THOUGHT)[2]))
            if none.outcome == "refusal":
                return none
            return ParsedAnswer(None, "unreadable", "the last line has not the form asked for")
        if value in self._exact:
            return ParsedAnswer(self._exact[value], "ok")
        return ParsedAnswer(None, "out_of_set", f"{value[:40]!r} is not one of the labels")


class _LastReader(_Reader):
    """Reads the last label that is named anywhere, whatever is said of it."""

    def parse(self, text: str) -> ParsedAnswer:
        """Return the last label of `text`; thoughts that are marked as such are passed over."""
        plain = self._fold(text[-LONGEST:].rpartition(_THOUGHT)[2])[-LONGEST:]
        found = list(_compiled(self._patterns.every).finditer(plain))
        return ParsedAnswer(self._label(found[-1]), "ok") if found else _none(plain)


_READERS: Mapping[AnswerRuleName, type[_Reader]] = {
    "stated": _Reader,
    "strict": _StrictReader,
    "last": _LastReader,
}


def _only(labels: set[str]) -> ParsedAnswer:
    if len(labels) > 1:
        return ParsedAnswer(None, "unreadable", f"two answers: {', '.join(sorted(labels))}")
    return ParsedAnswer(min(labels), "ok")


def _none(text: str) -> ParsedAnswer:
    if _REFUSAL.search(text):
        return ParsedAnswer(None, "refusal", "the model declined to answer")
    if _NUMBER.search(text) or _bare(text).isdecimal():
        return ParsedAnswer(None, "out_of_set", "the number named is not one of the labels")
    return ParsedAnswer(None, "unreadable", "no label is stated, named or quoted")
