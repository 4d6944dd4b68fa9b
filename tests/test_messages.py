"""Messages, fingerprints and replies; and the tree of errors."""

import doctest
import hashlib
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
# Letters of the framing itself, so that parts which imitate it come up.
said = st.text("ab\0text1 ", max_size=8) | st.text()
parts: st.SearchStrategy[Part] = said.map(Text) | said.map(lambda text: Image(text.encode()))
messages = st.builds(Message, roles, st.lists(parts, max_size=3).map(tuple))
conversations = st.lists(messages, max_size=4)
any_text = st.text(st.characters() | st.characters(categories=["Cs"]))


@given(one=messages, other=messages)
def test_digest_stands_for_the_message(one: Message, other: Message) -> None:
    """Two messages have one digest exactly when role, parts, their borders and kinds are the same."""
    assert (one.digest == other.digest) == (one == other)


@given(text=said, role=roles, at=st.integers(0, 8))
def test_digest_keeps_borders_and_kinds(text: str, role: Role, at: int) -> None:
    """The same letters said by another, parted elsewhere or as a picture give another digest."""
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


def test_digest_frames_hold_against_imitation() -> None:
    """A text that imitates the border between two parts is not mistaken for two parts."""
    two = Message("user", (Text("a"), Text("b")))
    for border in ("\0text 1\0", "\0text 1\0b\0text 1\0"):
        one = Message("user", (Text(f"a{border}b"),))
        assert one.digest != two.digest
        assert one.text != two.text


def test_golden_digests() -> None:
    """Digests and fingerprints are the same in every version, or old transcripts cease to replay."""
    picture = Message("user", (Text("a"), Image(b"\x89PNG")))
    assert picture.digest == hashlib.sha256(b"user\0text 1\0a\0png 4\0\x89PNG").digest()
    talk = [system("be brief"), user("[0.1]"), assistant("3")]
    assert fingerprint(talk) == "44227c12d42b17e294d1d3c4e86ab7e3"


@given(talk=conversations, more=messages)
def test_fingerprint_of_a_prefix_differs(talk: list[Message], more: Message) -> None:
    """No beginning of a conversation has the fingerprint of the whole."""
    prints = [fingerprint(talk[:end]) for end in range(len(talk) + 1)]
    prints.append(fingerprint([*talk, more]))
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in prints)


@given(one=conversations, other=conversations)
def test_fingerprint_stands_for_the_conversation(one: list[Message], other: list[Message]) -> None:
    """Two conversations have one fingerprint exactly when they are the same in the same order."""
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert fingerprint(iter(one)) == fingerprint(tuple(one))


@given(talk=st.lists(messages, min_size=2, max_size=4, unique=True))
def test_order_counts(talk: list[Message]) -> None:
    """The same messages in another order have another fingerprint."""
    assert fingerprint(talk) != fingerprint(talk[::-1])


@given(text=st.text())
def test_one_part(text: str) -> None:
    """System, user and assistant say one text, and it is the text of the message."""
    for role, say in (("system", system), ("user", user), ("assistant", assistant)):
        message = say(text)
        assert (message.role, message.parts, message.text) == (role, (Text(text),), text)


def test_text_leaves_pictures_out() -> None:
    """The text of a message is its text parts, one to a line, without the pictures."""
    message = Message("user", (Text("before"), Image(b"\x89PNG"), Text("after")))
    assert message.text == "before\nafter"


@given(text=st.text())
def test_a_reply_keeps_text(text: str) -> None:
    """A reply that can be written as UTF-8 is kept to the letter, byte order marks included."""
    assert Reply(text).text == text
    assert Reply(f"\ufeff{text}").text == f"\ufeff{text}"


@given(text=any_text)
def test_a_reply_mends_lone_surrogates(text: str) -> None:
    """Each lone surrogate becomes one U+FFFD, a pair the letter it spells, all else stays."""
    pair = re.compile("[\ud800-\udbff][\udc00-\udfff]")
    spelled = pair.sub(
        lambda two: chr(0x10000 + ((ord(two[0][0]) & 0x3FF) << 10) + (ord(two[0][1]) & 0x3FF)),
        text,
    )
    mended = Reply(text).text
    assert mended == re.sub("[\ud800-\udfff]", "\ufffd", spelled)
    assert mended.encode().decode() == mended
    assert replace(Reply(text), attempts=2).text == mended


@pytest.mark.parametrize(
    ("text", "mended"),
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
def test_surrogates(text: str, mended: str) -> None:
    """A surrogate takes no neighbour with it, wherever it stands."""
    assert Reply(text).text == mended


def test_errors_say_their_numbers() -> None:
    """Errors that carry numbers say them in their sentence, and a window is never less than empty."""
    full = ContextFull(needed=120, available=-5)
    assert (full.needed, full.available) == (120, -5)
    assert "120 tokens" in str(full)
    assert "0 are left" in str(full)
    differs = ReplayMismatch(7, "told", "a" * 500 + "b", "a" * 500 + "c")
    assert str(differs).startswith("turn 7: told is …aaa")
    assert str(differs).endswith("aab'")
    assert len(str(differs)) < 200


def test_examples_of_the_docstrings() -> None:
    """The examples in the docstrings of `errors` give what they say."""
    result = doctest.testmod(errors)
    assert (result.attempted, result.failed) == (1, 0)


CHOICES = ["all", "stateless", "idx:PREFIX", "mnist:test"]


@given(choice=st.sampled_from(CHOICES), data=st.data())
def test_one_slip_is_understood(choice: str, data: st.DataObject) -> None:
    """A choice in other capitals, or with one letter too many, is the nearest one."""
    at = data.draw(st.integers(0, len(choice)))
    letter = data.draw(st.characters(codec="ascii", categories=["Ll"]))
    for slip in (choice.upper(), choice.capitalize(), choice[:at] + letter + choice[at:]):
        assert nearest(slip, CHOICES) == f"did you mean {choice!r}?"


@given(value=st.text("0123456789", max_size=30))
def test_all_choices_if_none_is_near(value: str) -> None:
    """A value that is near to nothing is answered with every choice, in order."""
    assert nearest(value, CHOICES) == "choose one of all, idx:PREFIX, mnist:test, stateless"
