"""The marks of model families in a reply: thoughts, ends of turns, and roles.

Servers remove them if they know the model's chat template. Otherwise they are part of the text, and
neither an answer nor something to show the model again.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from icl_loop.tasks.label_mentions import ALPHANUMERIC, regex

_BRACKET = re.compile(r"[<\[◁]")
_BRACKET_OR_WORD = re.compile(r"[<\[◁]|[Aa]ssistant|analysis|Here (?:is|are) my ")
"""How every mark begins; the search for brackets alone is ten times as fast."""
_WORDS = ("ssistant", "analysis", "Here is my ", "Here are my ")


def marks(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield the marks in a text that match a pattern."""
    begin, place = _BRACKET_OR_WORD if any(word in text for word in _WORDS) else _BRACKET, 0
    for start in begin.finditer(text):
        if start.start() >= place and (mark := pattern.match(text, start.start())):
            yield mark
            place = mark.end()


# ---- thoughts ----------------------------------------------------------------------------

_NAME = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratch_?pad"
    r"|(?:inner|internal)_monologue|cot_budget_reflect)"
)
_UNQUOTED = r"""(?<![`'"“‘「])"""
_HARMONY = r"(?:<\|start\|>\w{0,20})?<\|channel\|>"
_THOUGHT_MARK = regex(
    rf"{_UNQUOTED}(?:(?P<start>"
    rf"<(?:\w{{1,9}}:)?{_NAME}(?:\s[^<>\n]{{0,80}})?>"  # DeepSeek, Qwen, GLM, Gemini, Seed and others
    r"|\[(?:think(?:ing)?|thought|reasoning)\]"  # Magistral
    r"|◁think▷"  # Kimi
    r"|<\|(?:start_thinking|begin_of_thought|inner_prefix)\|>"  # Command, Sky-T1, Apertus
    r"|<\|channel>(?:thought|analysis)\b"  # Gemma
    r"|<(?:ctrl|unused)94>(?:thought)?|\[unused16\])"  # Gemini, MedGemma, Pangu
    rf"|(?P<channel>{_HARMONY}(?:analysis|commentary)\b[^\n]{{0,200}}?<\|message\|>"  # gpt-oss
    r"|<\|think\|>|(?-i:\Aanalysis(?=[A-Z])))"  # Solar; gpt-oss without its special tokens
    r"|(?P<process>^Here (?:is my thought process|are my reasoning steps):)"  # Granite, Apriel
    r"|(?P<details><details type=\"?reasoning[^<>\n]{0,80}>)"
    rf"|(?P<end></(?:\w{{1,9}}:)?{_NAME}\s?>|\[/(?:think(?:ing)?|thought|reasoning)\]|◁/think▷"
    r"|<\|(?:end_thinking|end_of_thought|inner_suffix|/think)\|>|<channel\|>|<(?:ctrl|unused)95>|\[unused17\]|\[begin final response\]"
    rf"|{_HARMONY}final\b[^\n]{{0,200}}?<\|message\|>|assistantfinal)"
    r"|(?P<message_end><\|(?:end|call)\|>)|(?P<response>^Here is my response:)"
    r"|(?P<details_end></details>))",
    re.MULTILINE,
)
_STARTS = ("start", "channel", "process", "details")
_CLOSES = {"channel": "message_end", "process": "response", "details": "details_end"}
"""What else ends a thought, by the mark that began it."""
_WRAPPER = regex(r"<(answer|response|output|final|final_answer|solution)>")
"""What some models put before and, with a slash, after the text that follows their thoughts."""


def split_thoughts(text: str) -> tuple[str, str]:
    """Return the thoughts in a reply, and the rest.

    A thought that has only an end began before the reply. One that has only a start never ended.
    """
    said, thoughts = list[str](), list[str]()
    opened, place, last = None, 0, len(text.rstrip())
    for mark in marks(_THOUGHT_MARK, text):
        kind = mark.lastgroup
        closes = kind == "end" or (opened is not None and kind == _CLOSES.get(opened))
        if not closes and kind != "channel" and (opened or kind not in _STARTS):
            continue
        piece, place = text[place : mark.start()], mark.end()
        if not closes:
            (thoughts if opened else said).append(piece)
        elif opened is None and thoughts and place == last:
            said.append(piece)  # a second end, after the answer
        else:
            if opened is None:
                thoughts += said
                said.clear()
            thoughts.append(piece)
        opened = None if closes else kind
    if not place:
        return "", text
    (thoughts if opened else said).append(text[place:])
    rest = "".join(said).strip()
    if wrapper := _WRAPPER.match(rest):
        rest = rest[wrapper.end() :].removesuffix(f"</{wrapper[1]}>").strip()
    return "\n".join(part.strip() for part in thoughts if part.strip()), rest


# ---- turns -------------------------------------------------------------------------------

_USER = r"(?:user|human|system|developer|tool|observation|ipython|environment)"
_ANY = rf"(?:{_USER}|assistant|model|chatbot)"


def _role(name: str) -> str:
    """Return a pattern for the start of a message of this role."""
    return (
        rf"(?:<(?:\|im_start\||start_of_turn|\|turn|\|start\||\|begin\|)>\s?{name}\b"
        rf"(?:<\|(?:message|content)\|>)?"
        rf"|<\|start_(?:header_id|of_role)\|>\s?{name}\s?<\|end_(?:header_id|of_role)\|>"
        rf"|<[|｜]{name}(?:_token)?[|｜]>|\[\|{name}\|\])"
    )


_GLUED = r"(?-i:(?<=\S)assistant(?=\n))"
"""What is left of a role where only the special tokens around it were removed."""
_INST = r"<<SYS>>|(?:<s>)?\[INST\]"
_TURN_END = (
    r"(?:<\|(?:im_end|eot|eot_id|eom_id|eos|end|end_of_turn|endofturn|end_of_turn_token|end_response"
    r"|end_of_text|endoftext|end_of_solution|return|call)\|>|<[|｜]end[_▁]of[_▁]sentence[|｜]>"
    r"|\[\|endofturn\|\]|<end_of_(?:turn|utterance)>|<turn\|>|<eos>|\[/INST\]|\[end final response\]"
    r"|</s>(?=\s*(?:$|\n|[<\[])))"
)
TURN_MARK = regex(
    rf"{_UNQUOTED}(?:(?P<next>{_TURN_END}\s*(?:{_role(_USER)}|{_INST}))"
    rf"|{_TURN_END}|{_role(_ANY)}|{_INST}|{_GLUED})"
)
"""Where a message ends or begins; in the group `next`, where a message of the user follows."""
_STRAY = regex(
    rf"{_UNQUOTED}(?:{_TURN_END}|{_role(_ANY)}|{_INST}|<(?:bos|pad)>|</?s>(?=\s*$)|\A<s>|<\|\w{{1,40}}\|>)"
    r"|\Aassistant\s?:|(?<![^\n>])assistant\s?\n"
)
_HEAD = (
    r"feedback|user|human|assistant|system|question|input|instruction|array|image|picture|record"
    r"|text|配列|画像|絵|記録|文章"
)
_PLACEHOLDER = re.compile(r"\\\{\w+\\\}")


@lru_cache(maxsize=64)
def next_turn(lines: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern for a line with which the next turn begins: a role, a usual head, or `lines`.

    `lines` may contain {placeholders}.
    """
    heads = [line.strip().rstrip(" .:：!。") for line in lines]
    known = [_PLACEHOLDER.sub(r"[^\\n]{0,80}?", re.escape(head)) for head in heads]
    known.append(rf"(?:###\s?)?(?:{_HEAD})")
    return regex(
        rf"\n[^\w\n]{{0,9}}(?:(?:{_HEAD})\s?[:：]|(?:{'|'.join(known)})[^\w\n]{{0,9}}(?=\n|$))"
    )


def without_marks(text: str) -> str:
    """Return `text` with marks of turns and other special tokens removed."""
    pieces, place = list[str](), 0
    for mark in marks(_STRAY, text):
        pieces.append(text[place : mark.start()])
        place = mark.end()
    return "\n".join([*pieces, text[place:]]).strip() if pieces else text


# ---- replies -----------------------------------------------------------------------------

_MARKED = re.compile(r"[<\[◁\n]|analysis|[Aa]ssistant")
"""A text without any of these has neither thoughts nor marks of turns."""
_MAX_MARKS = 20
"""Only this many of the first marks of turns can end a reply, to bound the time."""
_RECAP = regex(
    r"\b(?:earlier|previous|previously|past|so far|history|examples?|above|recall|recap)\b|これまで|前の"
)


@dataclass(frozen=True, slots=True)
class FinalText:
    """What a reply says in the end.

    Attributes:
        thoughts: The thoughts that its text contained.
        text: The rest, without special tokens and turns that the model made up.
        goes_on: Whether the model made up further turns.
    """

    thoughts: str
    text: str
    goes_on: bool = False


def split_reply(text: str, heads: re.Pattern[str], has_answer: Callable[[str], bool]) -> FinalText:
    """Return the thoughts in a reply, and its text up to where the model made up further turns.

    Args:
        text: The reply.
        heads: Matches the lines with which a turn begins; see `next_turn`.
        has_answer: Returns whether a text gives an answer on a line of its own.
    """
    if not _MARKED.search(text):
        return FinalText("", text)
    thoughts, text = split_thoughts(text)
    end = _end_of_turn(text, heads, has_answer)
    whole = text if end is None else text[:end].rstrip()
    return FinalText(thoughts, without_marks(whole), end is not None)


def _end_of_turn(
    text: str, heads: re.Pattern[str], has_answer: Callable[[str], bool]
) -> int | None:
    """Return where a next turn begins in a text, or None.

    What begins a turn counts only after an answer, because a reply may quote it, unless a message of
    the user follows an end of turn. Lines do not count in a recap of earlier turns.
    """
    turns, lines = list(marks(TURN_MARK, text)), list(heads.finditer(text))
    before = text[: lines[0].start()] if lines else ""
    if _RECAP.search(before) and not has_answer(before):
        lines.clear()
    starts = sorted(each.start() for each in (*turns, *lines))
    first = bisect_left(starts, True, key=lambda start: has_answer(text[:start]))
    ends = starts[first : first + 1]
    for mark in islice((mark for mark in turns if mark["next"]), _MAX_MARKS):
        if ALPHANUMERIC.search(without_marks(text[: mark.start()])):
            ends.append(mark.start())
            break
    return min(ends, default=None)
