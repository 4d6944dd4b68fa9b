"""Counting tokens: exactly with a tiktoken vocabulary, or estimated without one.

The estimate is an upper bound for the texts that this package generates: prompts and encoded images.
For other texts, such as table rows, it is close but may be too low; calibration against the
endpoint's own counts corrects that.
"""

import logging
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import tiktoken
import tiktoken.registry

from icl_loop.core.errors import OUT_OF_FILES, InputError, StoppedShort, nearest, reason_of
from icl_loop.core.messages import Image, Message

_log = logging.getLogger(__name__)

VOCABULARIES = ("o200k_base", "cl100k_base")

MESSAGE_TOKENS = 4
"""Most tokens of a message's role and delimiters in OpenAI's chat format."""
REQUEST_TOKENS = 3
"""Tokens of a request beside its messages: they begin the reply."""
CACHE_STEP = 128
"""Prompt caches report cached tokens in multiples of this."""
MAX_CHARACTERS = 100_000
"""Longer texts are counted in pieces of this many characters."""
IMAGE_TOKENS = 1_105
"""Upper bound for an image of up to 1024 x 1024 pixels in OpenAI's published tile scheme."""


class TokenCounter(Protocol):
    """Counts the tokens of a text; hashable, so that counts can be cached."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """The name for which `token_counter` returns this counter."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, or an estimate."""
        ...


@dataclass(frozen=True, slots=True)
class VocabularyCounter:
    """Counts exactly with a tiktoken vocabulary."""

    name: str
    vocabulary: tiktoken.Encoding

    def count(self, text: str) -> int:
        """Return the number of tokens; names of special tokens count as ordinary text.

        A very long text is counted in pieces, because tiktoken panics on a million spaces.
        """
        starts = range(0, len(text), MAX_CHARACTERS)
        pieces = (text[start : start + MAX_CHARACTERS] for start in starts)
        return sum(len(self.vocabulary.encode_ordinary(piece)) for piece in pieces)


# Tokenisers split a text into pieces like these before they merge bytes, and never merge across
# pieces. The classes are a coarser version of the published patterns of o200k_base and cl100k_base.
_PIECE = re.compile(
    r"[^\S\n]?[A-Za-z]+|[0-9]{1,3}|\s+|[!-/:-@\[-`{-~]+\n*|[\u3001-\u9fff\uff01-\uffef]+|."
)
_LONG_BLANK = re.compile(r" \s+ ")
_NAME_WITHIN = re.compile(r"[A-Z](?:(?<=[^\s.].)|(?<=[^\s.][^\S\n].))")
_AFTER_JAPANESE = re.compile(r"(?<=[^\x00-\x7f])[^\S\n]?[A-Za-z]")
_JAPANESE = re.compile(r"[\u3001-\u9fff\uff01-\uffef]")
_SAME = re.compile(r"(.)\1*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates the token counts of a vocabulary that has `per_character` tokens per Japanese one."""

    name: str
    per_character: float

    def count(self, text: str) -> int:
        """Return an estimate of the number of tokens of `text`.

        It is an upper bound for the texts that this package generates. It is too low for rare words
        and names.
        """
        first, *words = text.split(" ")
        total = _word_tokens(first, self.per_character)
        total -= sum(map(_spare_tokens, _LONG_BLANK.findall(text)))
        for word, times in Counter(words).items():
            total += times * _word_tokens(" " + word, self.per_character)
        splits = len(_NAME_WITHIN.findall(text))  # names in a sentence have several tokens
        if not text.isascii():
            splits += len(_AFTER_JAPANESE.findall(text))  # and so have words after Japanese
        return math.ceil(total + splits)


ESTIMATORS = {
    "o200k_base": Estimator("estimate:o200k_base", per_character=0.85),
    "cl100k_base": Estimator("estimate:cl100k_base", per_character=1.2),
}
"""Estimators by vocabulary; the rates were fitted to the included prompt sets."""


@lru_cache(16_384)
def _word_tokens(word: str, per_character: float) -> float:
    """Return a bound for the text between two spaces, the first one included."""
    return sum(_piece_tokens(piece, per_character) for piece in _PIECE.findall(word))


@lru_cache(16_384)
def _spare_tokens(blank: str) -> float:
    """Return how many tokens white space saves as one piece, compared with its parts."""
    return sum(_word_tokens(" " + word, 0) for word in blank[1:].split(" ")) - _blank_tokens(blank)


def _piece_tokens(piece: str, per_character: float) -> float:
    """Return a bound for a piece, which depends on its first character that is not white space."""
    first = piece.lstrip()[:1]
    if not first:
        return _blank_tokens(piece)
    if first.isascii():
        if first.isalpha():
            return 1 + len(piece) // 12
        return 1 if first.isdigit() else sum(map(_run_tokens, _SAME.finditer(piece)))
    if _JAPANESE.match(first):
        return per_character * len(piece)
    return len(piece.encode())  # every token has at least one byte


def _blank_tokens(piece: str) -> int:
    """Return a bound for white space: two tokens for a line with spaces, one for line ends alone."""
    *lines, rest = piece.split("\n")
    within = sum(2 + len(line) // 80 for line in lines if line)
    return within + bool(lines) + len(lines) // 8 + min(len(rest), 2) + len(rest) // 80


def _run_tokens(run: re.Match[str]) -> int:
    """Return a bound for a run of one character; ruler characters such as - have long tokens."""
    length = run.end() - run.start()
    if run[1] in ".-=*#/":
        return 1 + (length > 4) + (length > 8) + length // 64
    return 1 + length // 2


def token_counter(name: str) -> TokenCounter:
    """Return the counter called `name`: a tiktoken vocabulary, or `estimate:` followed by one.

    Raises:
        InputError: There is no such counter, or the vocabulary is not available.
    """
    estimators = {counter.name: counter for counter in ESTIMATORS.values()}
    if name in estimators:
        return estimators[name]
    if name in VOCABULARIES:
        return VocabularyCounter(name, _vocabulary(name))
    hint = nearest(name, [*VOCABULARIES, *estimators])
    raise InputError(f"unknown token counter {name!r}: {hint}")


@lru_cache(64)
def counter_for(model: str) -> TokenCounter:
    """Return the best available counter for a model.

    It is exact for OpenAI's models if their vocabulary is available, and an estimate otherwise.
    """
    try:
        name = tiktoken.encoding_name_for_model(model)
        return token_counter(name) if name in VOCABULARIES else ESTIMATORS["o200k_base"]
    except KeyError:
        return ESTIMATORS["o200k_base"]
    except InputError as error:
        _log.warning("%s; tokens are estimated instead", error)
        return ESTIMATORS[name]


@lru_cache(maxsize=len(VOCABULARIES))
def _vocabulary(name: str) -> tiktoken.Encoding:
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # requests raises OSError, a wrong checksum ValueError
        if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
            raise StoppedShort(
                f"the vocabulary {name} cannot be read: {reason_of(error)}"
            ) from None
        raise InputError(
            f"the vocabulary {name} is not on this machine and could not be downloaded"
            f" ({type(error).__name__}); set TIKTOKEN_CACHE_DIR to a folder that contains it"
        ) from None


def portable_vocabulary(name: str) -> tiktoken.Encoding:
    """Return a vocabulary that can be pickled for a machine that does not have its file.

    Raises:
        InputError: It is not available here.
    """
    known = _vocabulary(name)
    return tiktoken.Encoding(  # a registered vocabulary is pickled as its name only
        known.name,
        pat_str=known._pat_str,
        mergeable_ranks=known._mergeable_ranks,
        special_tokens=known._special_tokens,
    )


def register_vocabulary(vocabulary: tiktoken.Encoding) -> None:
    """Make a vocabulary available in this process without its file."""
    tiktoken.registry.ENCODINGS.setdefault(vocabulary.name, vocabulary)


def count_message(counter: TokenCounter, message: Message) -> int:
    """Return the tokens of one message, including role, delimiters and images."""
    if counter not in message.tokens:
        images = sum(isinstance(part, Image) for part in message.parts)
        tokens = counter.count(message.text) + MESSAGE_TOKENS + IMAGE_TOKENS * images
        message.tokens[counter] = tokens
    return message.tokens[counter]


def count_messages(counter: TokenCounter, messages: Iterable[Message]) -> int:
    """Return the tokens of several messages, without the `REQUEST_TOKENS` of a request."""
    return sum(count_message(counter, message) for message in messages)


def truncate(text: str, tokens: int, counter: TokenCounter) -> str:
    """Return the whole words at the beginning of `text` that take at most `tokens` tokens."""
    if counter.count(text) <= tokens:
        return text
    ends = [place for place, character in enumerate(text) if character.isspace()]
    fitting = bisect_right(ends, tokens, key=lambda end: counter.count(text[:end]))
    return text[: ends[fitting - 1]].rstrip() if fitting else ""
