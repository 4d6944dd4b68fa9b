"""Find labels in a text, and judge by the words around each whether it is given as the answer."""

import re
import unicodedata
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from icl_loop.core.errors import InputError, nearest

MAX_MENTIONS = 500
"""Labels mentioned before the last `MAX_MENTIONS` are ignored, to bound the time."""


def regex(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Compile a pattern that ignores case."""
    return re.compile(pattern, re.IGNORECASE | flags)


# ---- normalisation -----------------------------------------------------------------------

_STRAIGHT = str.maketrans("“”„‟«»‘’‚‛‐‑‒–−", '"' * 6 + "'" * 4 + "-" * 5)
_EMPHASIS = regex(
    r"[`$*]|(?<!\w)_+(?=[^\W_])|(?<=[^\W_])_+(?!\w)|\\(?:text(?:bf)?|math(?:bf|rm)|[()\[\]])"
    r"|~~[^~\n]{1,80}~~|</?(?:b|i|u|em|strong|code|mark|span|p|h[1-6])>"
)
_DIGIT = re.compile(r"(?![0-9])\d")
# NFKC sorts a run of combining marks in quadratic time, so runs are cut to 30 marks, as in the
# Stream-Safe Text Format of Unicode Standard Annex 15.
_MARK = r"(?:[^\w\s\x00-\x7f]|[ﾞﾟ])"
_LONG_RUN = re.compile(rf"({_MARK}{{30}}){_MARK}+")
_SEPARATOR = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_SPACE = re.compile(r"(?<=[^\W_])\s+(?=[^\W_])")
_AROUND = re.compile(r"^[\W_]+|[\W_]+$")
_NUMBERED = re.compile(r"(?<=[^\W\d_]{2}) ?(?=\d)")
"""Where "class1" and "class 1" differ."""
_NEGATING = r"(?:non|not|no|un|anti|in|pre|post|pseudo|ex|semi|counter)"
ALPHANUMERIC = re.compile(r"[^\W_]")
LETTER = re.compile(r"[^\W\d_]")


def plain(text: str) -> str:
    """Apply NFKC, straighten quotes and dashes, and remove emphasis in Markdown, LaTeX and HTML.

    Digits of other scripts become ASCII, and text that is struck through is removed.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _LONG_RUN.sub(r"\1", text)).translate(_STRAIGHT)
        text = _DIGIT.sub(lambda digit: str(int(digit[0])), text)
    return _EMPHASIS.sub("", text.replace("—", " - ").replace(r"\_", "_"))


# ---- vocabulary --------------------------------------------------------------------------

_ENGLISH_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DIGIT_WORDS = {
    word: str(n)
    for words in (_ENGLISH_DIGITS, "〇一二三四五六七八九")
    for n, word in enumerate(words)
}
_OPEN, _CLOSE = r"""["'「『【〈《\[(<{]""", r"""["'」』】〉》\])>}]"""
NOUN = (
    r"(?:\b(?:digit|numeral|number|class|category|label|letter|option|answer|prediction)\b"
    r"|数字|文字|ラベル|番号|答え)"
)
IS = r"(?:\s+(?:is|was|must be|should be|would be|ist|lautet|est|es|è|é)\b|\s*(?:は|是|为|為|은|는|:))"
HEDGE = r"(?:most likely|most probably|likely|probably|clearly|definitely|maybe|simply|just)"
COPULA = r"(?:です|だ|である|でしょう|になります|だ?と(?:思い|思われ|考えられ|判断し)ます)"

SKIPPED = regex(
    rf"(?:[\W_]|\b(?:{HEDGE}|either|a|an|the|is|it|it's|this|i think|boxed|handwritten)\b"
    rf"|{NOUN}[のは]?|おそらく|たぶん|{COPULA})*"
)
"""What may surround a label that stands alone."""

# ---- context -----------------------------------------------------------------------------

_CONTEXT = 40
"""Characters on each side of a label that count."""
_COUNTED = (
    r"(?:background|values?|pixels?|cells?|zeros?|rows?|columns?|lines?|strokes?|loops?|times)"
)
_FILLER = r"(?:of|is|are|to|from|above|only|all|being|equal|range|as|\d+(?:\W{1,3}(?:and|or|to))?)"
_DENIED_BEFORE = regex(
    r"(?:(?:not|n't|\bnever|\bneither|\bnor|\bhardly|\bbarely|\bfar from|\brather than|\binstead of|\bunlike)\s+"
    rf"(?:(?!but\b)\w+\s+){{0,2}}|\bno\s+|\b(?:previous|earlier|last) \w{{1,20}}{IS}\s*"
    rf"|\b{_COUNTED}(?:[^\w.,;!?\n]*\b{_FILLER}\b)*[^\w.,;!?\n]*"
    r"|(?:背景|値|画素|余白|周り|行|(?<!配)列)(?:(?!数字|文字|絵|画像|図|答|ラベル)[^。、\n\d]){0,10}"
    rf"(?:\d(?:や|と|から|~))*|\d\W{{0,3}}(?:to|through|から)\s*){_OPEN}?\s*$"
)
_DENIED_AFTER = regex(
    rf"{_CLOSE}?(?:\s*(?:で(?:は|も)?な[いく]|ではあり|じゃ|とは違|以外)"
    r"|\s*(?:is|was) (?:not|wrong|incorrect|unlikely|impossible)|'?s\b| of\b|\s*[x×]\s*\d"
    rf"|\s*(?:to|through|から|~)\s*{_OPEN}?\d"
    r"|(?: ?(?:\b(?:is|are|the|a|used|for|being|means|marks|stands|surrounding)\b|=))*"
    rf" ?\b{_COUNTED}\b|\s*(?:の|は|が|を)?(?:背景|値|画素|余白|行目|列目))"
)
_CLAIM = (
    r"(?:\b(?:it|this|image|picture|array|shape|drawing|digit|answer)(?: (?:shown|depicted|here))?"
    rf"(?:'s|(?: {HEDGE})? (?:is|was|shows|depicts|represents|looks like|must be|appears to be))"
    r"|\bi(?:'d| would|'ll| will)? (?:say|choose|pick|guess|think|believe|go with|see|answer)"
    r"|\blet(?:'s| me) (?:say|choose|pick|guess|go with)"
    r"|(?:^|[.!?\n]\s{0,2})(?:looks like|appears to be|seems to be|must be)"
    r"|\bi(?:'m| am) (?:guessing|choosing|picking|going (?:with|for))|\bc'est|\b(?:das|es) ist"
    r"|\b(?:classif\w+|identif\w+|recogni[sz]ed?|label(?:l?ed)?|categori[sz]ed?)(?: (?:it|(?:this|the)(?: \w{1,20})?))? as)"
    rf"(?: (?:it|this) is| it's)?(?: {HEDGE})?"
)
_CLAIM_OF_WORD = (
    r"(?:\b(?:this|that|the)(?! (?:feedback|first|last|previous|earlier|other)\b)(?: \w{1,20}){1,3}?"
    rf" (?:is|was|seems|sounds|looks like|must be|appears to be|belongs to)(?: {HEDGE})?"
    r"|\b(?:so|hence|thus|therefore),?)"
)
"""Claims that would also match numbers which are no answer, such as "the width is 8"."""
_ARTICLE = r"(?:(?:an?|the|une?|el|la|le|eine?|der|die|das)\s+(?:\w{1,30}\s+)?)?"
_TAG = rf"(?:{NOUN}|output|result)"
_MARKED = regex(rf"(?:boxed\s*\{{+|<{_TAG}>|[\"']{_TAG}[\"']:[\s\"'\[]*)\s*$")
_OPENED = regex(r"""(?:(?<![A-Za-z0-9])["'\[(<{]|[「『【〈《])\s*$""")  # not a subscript: row[3]
_CLOSED = regex(rf"\s*{_CLOSE}")
_NAMED = regex(rf"(?:\bbut\s+(?:an?\s+)?|{NOUN}(?:{IS}:?|の)?\s*|{_CLAIM}\s+{_ARTICLE})$")
_NAMED_WORD = regex(rf"(?:{_CLAIM_OF_WORD}|{_CLAIM})\s+{_ARTICLE}(?:\w{{1,20}}\s+)?$")
_NAMED_AFTER = regex(
    rf"\s*(?:{COPULA}|に見え|を表|を示|が描かれ|のよう|と読)"
    r"|\s+(?:is|would be) (?:the|my) (?:\w{1,20} )?(?:answer|prediction|choice|guess)\b"
)
_OR = regex(
    r"(?:[^\w.!?\n]|\b(?:or|and|a|an|the|it|is|possibly|perhaps|maybe|likely)\b|または|もしくは|あるいは|か|や|と)*"
)
_BUT = regex(r"\W*(?:but|although|though|however)\b[^.!?\n]*")
_COMMON_WORDS = {"a", "i", *_DIGIT_WORDS}
_SENTENCE_START = regex(
    r"(?:^\W*(?:the )?(?:digit|number|numeral)?|\b(?:answer|digit)(?: is|:)|答え[は:])[\W_]*$"
)
_SENTENCE_END = regex(rf"\s*(?:{COPULA})?\s*(?:[.,;:!?()。、]|$)")
_NO_ARTICLE = regex(
    r"\s*(?:[.,;:!?)/=]|- |$|(?:or|and|nor|vs|is|because|since|as|instead|rather)\b)"
)
"""What may follow the label "a" but not the word."""
_NOUN_BEFORE = regex(r"\b(?:letter|label|class|option)(?: is|:)?\W*$")


class Mention(NamedTuple):
    """A label in a text, with the text around it."""

    start: int
    end: int
    label: str
    before: str
    after: str

    @property
    def quoted(self) -> bool:
        """Whether it is in quotes or brackets."""
        return bool(_OPENED.search(self.before) and _CLOSED.match(self.after))

    @property
    def is_no_word(self) -> bool:
        """Whether it is a sentence of its own, marked, in quotes, or after a noun such as "letter"."""
        if _MARKED.search(self.before):
            return True
        if self.label in ("A", "a") and _NO_ARTICLE.match(self.after):
            return True
        alone = _SENTENCE_START.search(self.before) and _SENTENCE_END.match(self.after)
        return bool(alone or self.quoted or _NOUN_BEFORE.search(self.before))

    @property
    def denied(self) -> bool:
        """Whether the text denies it or uses it as a number."""
        return bool(_DENIED_BEFORE.search(self.before) or _DENIED_AFTER.match(self.after))

    @property
    def rank(self) -> int | None:
        """How clearly the text gives it as the answer, 0 being clearest; None if it does not."""
        if _MARKED.search(self.before):
            return 0
        if self.quoted:
            return 1
        if _NAMED_AFTER.match(self.after) or _NAMED.search(self.before):
            return 2
        is_word = LETTER.search(self.label) and _NAMED_WORD.search(self.before)
        return 3 if is_word else None


def candidates(text: str, mentions: Sequence[Mention], index: int) -> set[str]:
    """Return the label of a mention, and any other that "or" or "but" sets beside it."""
    this, labels = mentions[index], {mentions[index].label}
    for left, right in pairwise(mentions[max(0, index - 1) : index + 2]):
        gap, other = (left.end, right.start), right if left is this else left
        beside = _OR.fullmatch(text, *gap) or (left is this and _BUT.fullmatch(text, *gap))
        if beside and not other.denied:
            labels.add(other.label)
    return labels


class Labels:
    """A set of labels that can be found in texts."""

    def __init__(self, labels: Sequence[str], aliases: Sequence[tuple[str, str]] = ()) -> None:
        """Raise InputError unless labels and aliases can be told apart."""
        if len(set(labels)) < len(labels):
            raise InputError(f"a label is listed twice: {', '.join(labels)}")
        loose = {_SEPARATOR.sub(" ", plain(label).casefold()).strip() for label in labels}
        self._loose = len(loose) == len(labels)
        self._gap = _SEPARATOR if self._loose else _SPACE
        self._labels: dict[str, str] = {}
        self._joined = re.compile("(?!)()")
        for name, label in [*zip(labels, labels, strict=True), *aliases]:
            key = self._gap.sub(" ", self.fold(name).strip())
            where = "answers.labels: " * ((name, label) in aliases)
            if label not in labels:
                raise InputError(
                    f"{where}{name!r} cannot stand for {label!r}: {nearest(label, labels)}"
                )
            if not ALPHANUMERIC.search(key):
                raise InputError(f"a label needs a letter or a digit, got {name!r}")
            if self._labels.setdefault(key, label) != label:
                raise InputError(
                    f"{where}{name!r} cannot be told from the label {self._labels[key]!r}"
                )
        self._names = tuple(self._labels.items())
        if self._loose:
            self._allow_variants()
        for word, digit in _DIGIT_WORDS.items():
            if digit in self._labels:
                self._labels.setdefault(word, self._labels[digit])
        self.pattern = self._compile()

    def fold(self, text: str) -> str:
        """Return the plain form of `text`, without case unless some labels differ only in case.

        A word that is joined to a label is parted from it, as in "Iris-setosa".
        """
        text = plain(text).casefold() if self._loose else plain(text)
        return self._joined.sub(r"\1 ", text)

    def begun_by(self, text: str) -> set[str]:
        """Return the labels that begin with `text`, or only the one that it names in full."""
        for form in (text.strip(), _AROUND.sub("", text)):
            key = self._gap.sub(" ", self.fold(form).strip())
            if label := self._labels.get(key):
                return {label}
            if begun := {label for name, label in self._names if name.startswith(key)}:
                return begun
        return set()

    def find(self, text: str) -> list[Mention]:
        """Return the labels in a folded text; "a" and "I" count only where they cannot be words."""
        mentions = []
        for match in deque(self.pattern.finditer(text), MAX_MENTIONS):
            name, (start, end) = self._gap.sub(" ", match[0]), match.span()
            before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
            mention = Mention(start, end, self._labels[name], before, after)
            if name.casefold() not in _COMMON_WORDS or mention.is_no_word:
                mentions.append(mention)
        return mentions

    def _allow_variants(self) -> None:
        """Find "Class 1" for the label "class1" and the reverse, and labels joined to another word."""
        for key, label in self._names:
            for other in (_NUMBERED.sub(" ", key), _NUMBERED.sub("", key)):
                self._labels.setdefault(other, label)
        words = [re.escape(name) for name, _ in self._names if len(name) > 2]
        if words := [word for word in words if LETTER.search(word)]:
            before = rf"(?<![\w-])(?!{_NEGATING}[-_])([^\W\d_]{{2,20}})"
            self._joined = re.compile(rf"{before}[-_](?=(?:{'|'.join(words)})(?![\w-]))")

    def _compile(self) -> re.Pattern[str]:
        """Return a pattern for the labels, longest first, that never matches part of a word."""
        words, japanese = ["(?!)"], ["(?!)"]
        for name in sorted(self._labels, key=len, reverse=True):
            group = japanese if "\u3005" <= name[0] <= "\u9fff" else words
            group.append(self._gap.pattern.join(map(re.escape, self._gap.split(name))))
        wordy = "0-9A-Za-zÀ-ԯ"  # not Japanese, which has no spaces between words
        return re.compile(
            rf"(?<![_.\-{wordy}])(?:{'|'.join(words)})(?!_|-\w|\.\d|[{wordy}])"
            rf"|(?:(?<!\w)|(?<=[はがのを]))(?:{'|'.join(japanese)})"
            rf"(?=\W|$|{COPULA}|[はがのをにとかや])"
        )
