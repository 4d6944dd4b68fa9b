"""Messages, fingerprints, replies and error messages."""

import doctest
import hashlib
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_loop.core import errors
from icl_loop.core.errors import ContextFull, ReplayMismatch, nearest
from icl_loop.core.messages import (
    Image,
    Message,
    Part,
    Reply,
    Role,
    Text,
    assistant,
    fingerprint,
    system,
    user,
)

roles: st.SearchStrategy[Role] = st.sampled_from(["system", "user", "assistant"])
# Characters of the digest's own separators, so that texts that imitate them occur.
texts = st.text("ab\0text1 ", max_size=8) | st.text()
parts: st.SearchStrategy[Part] = texts.map(Text) | texts.map(lambda text: Image(text.encode()))
messages = st.builds(Message, roles, st.lists(parts, max_size=3).map(tuple))
conversations = st.lists(messages, max_size=4)
any_text = st.text(st.characters() | st.characters(categories=["Cs"]))


@given(one=messages, other=messages)
def test_digests_identify_messages(one: Message, other: Message) -> None:
    """Two messages have the same digest exactly if they are equal."""
    assert (one.digest == other.digest) == (one == other)


@given(text=texts, role=roles, at=st.integers(0, 8))
def test_digests_depend_on_role_and_parts(text: str, role: Role, at: int) -> None:
    """The digest changes with the role, where a text is split into parts, and the kinds of parts."""
    head, tail = text[:at], text[at:]
    ways: list[tuple[Part, ...]] = [
        (),
        (Text(text),),
        (Image(text.encode()),),
        (Text(text), Text("")),
        (Text(""), Text(text)),
        (Text(head), Image(tail.encode())),
        (Image(head.encode()), Text(tail)),
    ]
    others: list[Role] = ["system", "user", "assistant"]
    digests = {Message(each, way).digest for way in ways for each in others}
    assert len(digests) == len(set(ways)) * len(others)
    parted = Message(role, (Text(head), Text(tail)))
    assert (parted.digest in digests) == (parted.parts in ways)


def test_separators_within_a_text() -> None:
    """A text that contains the digest's separators differs from two parts."""
    two = Message("user", (Text("a"), Text("b")))
    for separator in ("\0text 1\0", "\0text 1\0b\0text 1\0"):
        one = Message("user", (Text(f"a{separator}b"),))
        assert one.digest != two.digest
        assert one.text != two.text


def test_golden_digests() -> None:
    """Digests and fingerprints never change, because old transcripts must replay."""
    image = Message("user", (Text("a"), Image(b"\x89PNG")))
    assert image.digest == hashlib.sha256(b"user\0text 1\0a\0png 4\0\x89PNG").digest()
    talk = [system("be brief"), user("[0.1]"), assistant("3")]
    assert fingerprint(talk) == "44227c12d42b17e294d1d3c4e86ab7e3"


@given(talk=conversations, more=messages)
def test_fingerprint_of_a_prefix_differs(talk: list[Message], more: Message) -> None:
    """A conversation and all its prefixes have different fingerprints."""
    prints = [fingerprint(talk[:end]) for end in range(len(talk) + 1)]
    prints.append(fingerprint([*talk, more]))
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in prints)


@given(one=conversations, other=conversations)
def test_fingerprints_identify_conversations(one: list[Message], other: list[Message]) -> None:
    """Two conversations have the same fingerprint exactly if they are equal."""
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert fingerprint(iter(one)) == fingerprint(tuple(one))


@given(talk=st.lists(messages, min_size=2, max_size=4, unique=True))
def test_fingerprints_depend_on_the_order(talk: list[Message]) -> None:
    """The same messages in another order have another fingerprint."""
    assert fingerprint(talk) != fingerprint(talk[::-1])


@given(text=st.text())
def test_messages_with_one_text(text: str) -> None:
    """`system`, `user` and `assistant` make messages with one text part."""
    for role, make in (("system", system), ("user", user), ("assistant", assistant)):
        message = make(text)
        assert (message.role, message.parts, message.text) == (role, (Text(text),), text)


def test_text_of_a_message() -> None:
    """The text of a message is its text parts, one per line, without the images."""
    message = Message("user", (Text("before"), Image(b"\x89PNG"), Text("after")))
    assert message.text == "before\nafter"


@given(text=st.text())
def test_a_reply_keeps_text(text: str) -> None:
    """A reply that can be encoded as UTF-8 is unchanged, including byte order marks."""
    assert Reply(text).text == text
    assert Reply(f"\ufeff{text}").text == f"\ufeff{text}"


def test_a_reply_keeps_finite_numbers() -> None:
    """Log probabilities that are not finite are left out, because a transcript cannot hold them."""
    odd = {"A": -0.5, "B": -math.inf, "C": math.nan}
    assert Reply("A", label_logprobs=odd).label_logprobs == {"A": -0.5}
    assert Reply("A", label_logprobs={"B": -math.inf}).label_logprobs is None


@given(text=any_text)
def test_lone_surrogates_are_replaced(text: str) -> None:
    """Each lone surrogate becomes U+FFFD, and a pair becomes its character; the rest stays."""
    pair = re.compile("[\ud800-\udbff][\udc00-\udfff]")
    joined = pair.sub(
        lambda two: chr(0x10000 + ((ord(two[0][0]) & 0x3FF) << 10) + (ord(two[0][1]) & 0x3FF)),
        text,
    )
    cleaned = Reply(text).text
    assert Reply("", reasoning_text=text).reasoning_text == cleaned
    assert cleaned == re.sub("[\ud800-\udfff]", "\ufffd", joined)
    assert cleaned.encode().decode() == cleaned
    assert replace(Reply(text), attempts=2).text == cleaned


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ud83d", "\ufffd"),
        ("3 \ud83d", "3 \ufffd"),
        ("\ude003", "\ufffd3"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ufeff\ud800", "\ufeff\ufffd"),
        ("３\ud83dです", "３\ufffdです"),
    ],
)
def test_surrogates(text: str, expected: str) -> None:
    """Replacing a surrogate leaves its neighbours unchanged."""
    assert Reply(text).text == expected


def test_messages_of_errors() -> None:
    """Messages contain the values of an error, shortened; available tokens are never negative."""
    full = ContextFull(needed=120, available=-5)
    assert (full.needed, full.available) == (120, -5)
    assert "120 tokens" in str(full)
    assert "0 are left" in str(full)
    differs = ReplayMismatch(7, "told", "a" * 500 + "b", "a" * 500 + "c")
    assert str(differs).startswith("turn 7: told is …aaa")
    assert str(differs).endswith("aab'")
    assert len(str(differs)) < 200


def test_examples_of_the_docstrings() -> None:
    """The examples in the docstrings of `errors` are correct."""
    result = doctest.testmod(errors)
    assert (result.attempted, result.failed) == (1, 0)


CHOICES = ["all", "stateless", "idx:PREFIX", "mnist:test"]


@given(choice=st.sampled_from(CHOICES), data=st.data())
def test_nearest_corrects_a_typo(choice: str, data: st.DataObject) -> None:
    """A choice in other case, or with one extra letter, is suggested."""
    at = data.draw(st.integers(0, len(choice)))
    extra = data.draw(st.characters(codec="ascii", categories=["Ll"]))
    for typo in (choice.upper(), choice.capitalize(), choice[:at] + extra + choice[at:]):
        assert nearest(typo, CHOICES) == f"did you mean {choice!r}?"


@given(value=st.text("0123456789", max_size=30))
def test_all_choices_if_none_is_near(value: str) -> None:
    """If no choice is similar, the hint lists all choices in order."""
    assert nearest(value, CHOICES) == "choose one of all, idx:PREFIX, mnist:test, stateless"
