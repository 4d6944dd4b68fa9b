"""Counting the tokens of messages: exactly with tiktoken, or by estimate without a vocabulary.

The estimate is never below for the texts that this package writes: its prompt sets and its pictures.
For texts of others, such as the rows of a table, it is near and may be below; what the endpoint
reports sets it right.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import tiktoken
import tiktoken.registry

from icl_loop.core.errors import InputError, nearest
from icl_loop.core.messages import Image, Message

_log = logging.getLogger(__name__)

VOCABULARIES = ("o200k_base", "cl100k_base")
ESTIMATE = "estimate:"

MESSAGE_TOKENS = 4
"""What a message costs beside its text: role and delimiters, at most, in OpenAI's chat format."""
REQUEST_TOKENS = 3
"""What a request costs beside its messages: the opening of the reply."""
CACHE_STEP = 128
"""Providers' prompt caches state cached tokens in multiples of this."""
IMAGE_TOKENS = 1_105
"""Upper bound for an image of up to 1024 x 1024 pixels in OpenAI's published tile scheme."""


class TokenCounter(Protocol):
    """Counts the tokens of a text; a value that can be hashed, so that counts can be kept."""

    def __hash__(self) -> int: ...

    @property
    def name(self) -> str:
        """The name under which `token_counter` gives this counter again."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`, or an estimate of it.

        An estimate is never below for the texts that this package writes, but may be for others.
        """
        ...


@dataclass(frozen=True, slots=True)
class VocabularyCounter:
    """Counts with a tiktoken vocabulary, exactly."""

    name: str
    vocabulary: tiktoken.Encoding

    def count(self, text: str) -> int:
        """Return the number of tokens; special-token names in `text` count as ordinary text."""
        return len(self.vocabulary.encode_ordinary(text))


# A text falls into these pieces before its bytes are merged; merges never cross them. The
# classes are those of the published splitting patterns of o200k_base and cl100k_base, coarser.
_PIECE = re.compile(
    r"[^\S\n]?[A-Za-z]+|[0-9]{1,3}|\s+|[!-/:-@\[-`{-~]+\n*|[\u3001-\u9fff\uff01-\uffef]+|."
)
_LONG_BLANK = re.compile(r" \s+ ")
_NAME_WITHIN = re.compile(r"[A-Z](?:(?<=[^\s.].)|(?<=[^\s.][^\S\n].))")
_AFTER_JAPANESE = re.compile(r"(?<=[^\x00-\x7f])[^\S\n]?[A-Za-z]")
_JAPANESE = re.compile(r"[\u3001-\u9fff\uff01-\uffef]")
RULERS = frozenset(".-=*#/")
_SAME = re.compile(r"(.)\1*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates without the vocabulary, and never below for the texts that this package writes.

    Attributes:
        vocabulary: The vocabulary whose counts are estimated.
        per_character: Tokens per Japanese character.
    """

    vocabulary: str
    per_character: float

    @property
    def name(self) -> str:
        """`estimate:` and the vocabulary."""
        return ESTIMATE + self.vocabulary

    def count(self, text: str) -> int:
        """Return an estimate of the number of tokens of `text`.

        It is never below for texts that this package writes; of rare words, names and keys in
        texts of others it makes too little.
        """
        first, *words = text.split(" ")
        total = _word_tokens(first, self.per_character)
        total -= sum(map(_spare_tokens, _LONG_BLANK.findall(text)))
        for word, times in Counter(words).items():
            total += times * _word_tokens(" " + word, self.per_character)
        return math.ceil(total + _run_into(text))


ESTIMATORS = {
    "o200k_base": Estimator("o200k_base", per_character=0.85),
    "cl100k_base": Estimator("cl100k_base", per_character=1.2),
}
"""Estimators by vocabulary; the rates were fitted to the shipped prompt sets."""


def _run_into(text: str) -> int:
    """Count what takes a token more: a name within a sentence, a word that Japanese runs into."""
    within = len(_NAME_WITHIN.findall(text))
    return within if text.isascii() else within + len(_AFTER_JAPANESE.findall(text))


@lru_cache(16_384)
def _word_tokens(word: str, per_character: float) -> float:
    """Bound what stands between two blanks, the first of them included; in pictures it recurs."""
    return sum(_piece_tokens(piece, per_character) for piece in _PIECE.findall(word))


@lru_cache(16_384)
def _spare_tokens(blank: str) -> float:
    """Return how much less a long blank takes as one piece than as the words that it splits into."""
    return sum(_word_tokens(" " + word, 0) for word in blank[1:].split(" ")) - _blank_tokens(blank)


def _piece_tokens(piece: str, per_character: float) -> float:
    """Bound one piece by its kind, which its first mark that is no blank tells."""
    mark = piece.lstrip()[:1]
    if not mark:
        return _blank_tokens(piece)
    if mark.isascii():
        if mark.isalpha():
            return 1 + len(piece) // 12
        return 1 if mark.isdigit() else sum(map(_run_tokens, _SAME.finditer(piece)))
    if _JAPANESE.match(mark):
        return per_character * len(piece)
    return len(piece.encode())  # no token is shorter than a byte


def _blank_tokens(piece: str) -> int:
    """Bound white space: each line that holds blanks may cost two, line ends alone cost one."""
    *lines, rest = piece.split("\n")
    within = sum(2 + len(line) // 80 for line in lines if line)
    return within + bool(lines) + len(lines) // 8 + min(len(rest), 2) + len(rest) // 80


def _run_tokens(run: re.Match[str]) -> int:
    """Bound a run of one mark: the marks of rulers have long tokens of their own, others pairs."""
    length = run.end() - run.start()
    if run[1] in RULERS:
        return 1 + (length > 4) + (length > 8) + length // 64
    return 1 + length // 2


def token_counter(name: str) -> TokenCounter:
    """Return the counter called `name`: a tiktoken vocabulary, or `estimate:` and one.

    Raises:
        InputError: There is no such counter, or the vocabulary cannot be had.
    """
    if name.startswith(ESTIMATE):
        vocabulary = name.removeprefix(ESTIMATE)
        if vocabulary in ESTIMATORS:
            return ESTIMATORS[vocabulary]
    if name in VOCABULARIES:
        return VocabularyCounter(name, _vocabulary(name))
    choices = (*VOCABULARIES, *(counter.name for counter in ESTIMATORS.values()))
    raise InputError(f"unknown token counter {name!r}: {nearest(name, choices)}")


@lru_cache(64)
def counter_for(model: str) -> TokenCounter:
    """Return the best counter at hand for a model's texts.

    OpenAI's models are counted with their own vocabulary. If it cannot be had, and for every
    other model, the estimate of it under `o200k_base` is used.
    """
    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        return ESTIMATORS[VOCABULARIES[0]]
    if name not in VOCABULARIES:
        return ESTIMATORS[VOCABULARIES[0]]
    try:
        return token_counter(name)
    except InputError as error:
        _log.warning("%s; counting with an estimate that is never below for our own texts", error)
        return ESTIMATORS[name]


@lru_cache(maxsize=len(VOCABULARIES))
def _vocabulary(name: str) -> tiktoken.Encoding:
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # requests raises OSError, a wrong checksum ValueError
        raise InputError(
            f"the vocabulary {name} is not on this machine and could not be downloaded"
            f" ({type(error).__name__}); set TIKTOKEN_CACHE_DIR to a folder that holds it"
        ) from None


def portable(name: str) -> tiktoken.Encoding:
    """Return a vocabulary of tiktoken's that travels with all its tokens, to where no file has them.

    Raises:
        InputError: It cannot be had here.
    """
    known = _vocabulary(name)
    return tiktoken.Encoding(  # one that is registered travels as its name alone
        known.name,
        pat_str=known._pat_str,
        mergeable_ranks=known._mergeable_ranks,
        special_tokens=known._special_tokens,
    )


def know(vocabulary: tiktoken.Encoding) -> None:
    """Count with this vocabulary in this process, whether or not there is a file of it."""
    tiktoken.registry.ENCODINGS.setdefault(vocabulary.name, vocabulary)


def count_message(counter: TokenCounter, message: Message) -> int:
    """Return the tokens of one message, its overhead and images included."""
    known = message.tokens.get(counter)
    if known is not None:
        return known
    images = sum(isinstance(part, Image) for part in message.parts)
    tokens = counter.count(message.text) + MESSAGE_TOKENS + IMAGE_TOKENS * images
    message.tokens[counter] = tokens
    return tokens


def count_messages(counter: TokenCounter, messages: Iterable[Message]) -> int:
    """Return the tokens of several messages of a request, without the request's own."""
    return sum(count_message(counter, message) for message in messages)
