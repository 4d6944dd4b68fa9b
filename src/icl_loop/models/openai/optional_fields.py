"""Request fields that not every endpoint accepts: which of them one endpoint accepts is found out.

Each purpose has options in order of preference. A refusal that names the field of an option, or a
reply that shows that it was ignored, moves on to the next option; the last one is often no field.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from icl_loop.core.messages import Reply, Served
from icl_loop.models.chat import CAP_FIELDS, AnswerFormat
from icl_loop.models.openai.endpoint import Kind
from icl_loop.tasks.prompts.templates import fill

_log = logging.getLogger(__name__)

Purpose = Literal["cap", "constraint", "logprobs", "cache"]
"""What a field is for: to limit the length of replies or their text, to report the probabilities of
labels, or to keep the prompt cache of a session."""

CAPS = CAP_FIELDS[:2]
"""The fields that are tried."""
TOP_LOGPROBS = 20
"""The most alternatives per token that OpenAI returns."""
FEWER_LOGPROBS = 5
"""The most that some other providers return."""


@dataclass(frozen=True, slots=True)
class Option:
    """A way to serve a purpose: the name of the field, and everything that is sent for it."""

    name: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


NOTHING = Option()
"""Send no field."""
Chosen = Mapping[Purpose, Option]
"""The option in use for each purpose."""
_NAMES: Mapping[Purpose, re.Pattern[str]] = {
    "cap": re.compile("|".join(CAPS)),
    "constraint": re.compile(
        r"grammar|guided|structured.?output|response.?format|json.?schema|\bformat\b"
    ),
    "logprobs": re.compile(r"log.?prob"),
    "cache": re.compile(r"prompt_cache_key|id_slot"),
}
"""How refusals name the fields of a purpose."""
_OTHER_REASONS = frozenset((401, 402, 408, 409, 413, 429))
"""HTTP statuses of refusals that are not about a field."""
_VALUE = re.compile(
    r"too (?:large|big|high|many|small|low|long)|at (?:most|least)|(?:less|greater|fewer|more) than"
    r"|exceed|maximum (?:value|allowed|of)|must be|between|range|afford|credit"
)
"""How a refusal says that the value of a field is wrong, rather than the field."""
_UNSUPPORTED = re.compile(
    r"unsupported|not? support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra"
    r"|additional|invalid|not implemented|failed to (?:parse|initiali[sz]e)|no endpoints? found"
)
_UNNAMED = re.compile(
    rf"(?:{_UNSUPPORTED.pattern}).{{0,40}}(?:param|field|argument|propert|extra input)"
    rf"|(?:param|field|argument|propert|extra input).{{0,60}}(?:{_UNSUPPORTED.pattern})"
)
"""How a refusal says that some field is not accepted."""
_DISPENSABLE: Sequence[Purpose] = ("cache", "logprobs", "cap", "constraint")
"""What to give up first if a refusal does not name the field."""


class OptionalFields:
    """The options of one model and those in use.

    Attributes:
        chosen: The option in use for each purpose; replaced, never changed.
        dropped: Why each field that is no longer sent was given up: "refused" or "ignored".
    """

    def __init__(
        self,
        answer_format: AnswerFormat = "text",
        labels: Sequence[str] = (),
        form: str = "Answer: {label}",
        *,
        kind: Kind = "unknown",
        cap: int | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin with the first option of each purpose.

        Args:
            answer_format: What is requested of replies.
            labels: The possible answers.
            form: The final line of a reply, containing {label}.
            kind: The server, which decides what is tried first.
            cap: Most tokens of a reply.
            params: Fields that are always sent; what they decide is not negotiated.
        """
        self._labels, self._form, self._cap, self._params = labels, form, cap, params or {}
        self._options: Mapping[Purpose, Sequence[Option]] = {
            "cap": _caps(cap, kind, self._params),
            "constraint": _constraints(answer_format, labels, form, kind, self._params),
            "logprobs": _logprobs(answer_format, self._params),
            "cache": _caches(kind, self._params),
        }
        self.chosen: Chosen = {purpose: each[0] for purpose, each in self._options.items()}
        self.dropped: dict[str, str] = {}

    def checked(self, sent: Chosen, reply: Reply) -> Reply:
        """Return a reply with the fields that limited it; move on from those that were ignored."""
        cap, constraint = sent["cap"].name, sent["constraint"].name
        most = (self._cap or 0) * 1.1 + 8  # some servers pass the cap by a little
        if sent["cap"].fields and reply.usage.completion > most:
            self._move_on(sent, "cap", "ignored")
            cap = None
        judged = constraint and reply.finish == "stop" and reply.text
        if judged and not obeys(constraint, reply.text, self._labels, self._form):
            self._move_on(sent, "constraint", "ignored")
            constraint = None
        served = replace(reply.served or Served(), cap=cap, constraint=constraint)
        return replace(reply, served=served)

    def refused(self, sent: Chosen, status: int, said: str) -> bool:
        """Return whether a request that was refused in these words should be sent again."""
        purpose = self._named(sent, status, said[:4_000].lower())
        if purpose is None:
            return False
        self._move_on(sent, purpose, "refused")
        return self.chosen[purpose] is not sent[purpose]

    def restore(self, chosen: Chosen) -> None:
        """Use these options again, because giving them up did not help."""
        for purpose, option in chosen.items():
            options = self._options[purpose]
            for given_up in options[options.index(option) : options.index(self.chosen[purpose])]:
                self.dropped.pop(given_up.name or "", None)
        self.chosen = chosen

    def _named(self, sent: Chosen, status: int, text: str) -> Purpose | None:
        """Return the purpose of the field that a refusal is about, or None if it is about none."""
        if status in _OTHER_REASONS or (status >= 500 and not _UNSUPPORTED.search(text)):
            return None
        found = {
            match.start(): purpose
            for purpose, option in sent.items()
            if option.name and (match := _NAMES[purpose].search(text))
        }
        if found:
            purpose = found[min(found)]
            return None if purpose == "cap" and _VALUE.search(text) else purpose
        if not _UNNAMED.search(text) or any(key.lower() in text for key in self._params):
            return None
        return next((each for each in _DISPENSABLE if each in sent and sent[each].name), None)

    def _move_on(self, sent: Chosen, purpose: Purpose, reason: str) -> None:
        """Use the next option, unless another request has moved on already."""
        option, options = sent[purpose], self._options[purpose]
        following = options.index(option) + 1
        if option is self.chosen[purpose] and following < len(options):
            self.chosen = {**self.chosen, purpose: options[following]}
            if option.name and option.name != options[following].name:
                self.dropped[option.name] = reason
            if purpose == "constraint" and not self.chosen[purpose].name:
                _log.warning(
                    "the endpoint cannot limit replies to the labels, so replies are free text"
                )


def _caps(cap: int | None, kind: Kind, params: Mapping[str, Any]) -> list[Option]:
    for name in CAP_FIELDS:
        if name in params:
            return [Option(name)]
    names = reversed(CAPS) if kind in ("Ollama", "LM Studio") else CAPS  # they ignore the first
    return [*(Option(name, {name: cap}) for name in names if cap), NOTHING]


def _logprobs(answer_format: AnswerFormat, params: Mapping[str, Any]) -> list[Option]:
    if answer_format not in ("choice", "logprobs"):
        return [NOTHING]
    if "logprobs" in params or "top_logprobs" in params:
        return [Option("logprobs", {"logprobs": True})]
    wanted = [
        Option("logprobs", {"logprobs": True, "top_logprobs": top})
        for top in (TOP_LOGPROBS, FEWER_LOGPROBS)
    ]
    return wanted if answer_format == "logprobs" else [*wanted, NOTHING]


def _caches(kind: Kind, params: Mapping[str, Any]) -> list[Option]:
    """Return the field that ties a session to its cache; its value is added for each session."""
    if kind == "llama.cpp":
        name = "id_slot"
    elif kind in ("OpenAI", "OpenRouter", "unknown"):
        name = "prompt_cache_key"
    else:
        return [NOTHING]
    return [NOTHING] if name in params else [Option(name), NOTHING]


# ---- replies limited to the labels ----

_CONSTRAINTS: Mapping[Kind, Sequence[str]] = {
    "llama.cpp": ("grammar", "response_format"),
    "vLLM": ("structured_outputs", "guided_choice", "response_format"),
    "SGLang": ("response_format",),
    "Ollama": ("response_format", "format"),
    "LM Studio": ("response_format",),
    "OpenAI": ("response_format",),
    "OpenRouter": ("response_format",),
    "icl-loop": ("response_format",),
    "unknown": ("response_format", "structured_outputs", "guided_choice", "grammar", "format"),
}
"""The fields that limit replies, by server, in the order in which they are tried."""
JSON_CONSTRAINTS = frozenset(("response_format", "format"))
"""Fields whose replies are JSON rather than the answer line."""
_ANSWER_KEY = "answer"


def _constraints(
    answer_format: AnswerFormat,
    labels: Sequence[str],
    form: str,
    kind: Kind,
    params: Mapping[str, Any],
) -> list[Option]:
    made: dict[str, dict[str, Any]] = {
        "response_format": {"response_format": _response_format(labels)},
        "format": {"format": answer_schema(labels)},
    }
    if answer_format == "schema":
        return [Option("response_format", made["response_format"])]
    if answer_format != "choice":
        return [NOTHING]
    lines = [fill(form, label=label) for label in labels]
    made |= {
        "grammar": {"grammar": grammar(lines)},
        "structured_outputs": {"structured_outputs": {"choice": lines}},
        "guided_choice": {"guided_choice": lines},
    }
    for name in made.keys() & params.keys():
        return [Option(name)]
    return [*(Option(name, made[name]) for name in _CONSTRAINTS[kind]), NOTHING]


def answer_schema(labels: Sequence[str]) -> dict[str, Any]:
    """Return the JSON schema of an object with one of `labels` as its answer."""
    return {
        "type": "object",
        "properties": {_ANSWER_KEY: {"type": "string", "enum": list(labels)}},
        "required": [_ANSWER_KEY],
        "additionalProperties": False,
    }


def _response_format(labels: Sequence[str]) -> dict[str, Any]:
    json_schema = {"name": _ANSWER_KEY, "strict": True, "schema": answer_schema(labels)}
    return {"type": "json_schema", "json_schema": json_schema}


def grammar(lines: Sequence[str]) -> str:
    r"""Return a GBNF grammar whose texts are exactly `lines`.

    >>> grammar(["Answer: a", "Answer: \"b\""])
    'root ::= "Answer: a" | "Answer: \\"b\\""'
    """
    return "root ::= " + " | ".join(f'"{"".join(map(_gbnf, line))}"' for line in lines)


def _gbnf(character: str) -> str:
    """Return a character as it is written between the quotes of a grammar."""
    code = ord(character)
    if character in '"\\':
        return f"\\{character}"
    if character.isascii():
        return character if character.isprintable() else f"\\x{code:02x}"
    return f"\\U{code:08x}"


def obeys(name: str | None, text: str, labels: Sequence[str], form: str) -> bool:
    """Return whether a reply is one that the field `name` allows."""
    said = text.rpartition("</think>")[2].strip()
    if name not in JSON_CONSTRAINTS:
        return said in {fill(form, label=label).strip() for label in labels}
    try:
        answer = json.loads(said)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and answer.get(_ANSWER_KEY) in labels
