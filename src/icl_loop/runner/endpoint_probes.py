"""Find out what an endpoint does: from what it says, from some turns, and from tiny requests."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from statistics import median
from typing import Any

from icl_loop.core.errors import (
    BudgetSpent,
    ContextOverflow,
    InputError,
    ModelUnavailable,
    RequestRefused,
)
from icl_loop.core.messages import Message, Reply, system, user
from icl_loop.models.chat import CAP_FIELDS
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.openai.endpoint import Endpoint, Kind
from icl_loop.models.openai.request_body import parse_params
from icl_loop.models.retrying import RequestPolicy, RetryingModel, RetryPolicy
from icl_loop.runner.trial import Finding, TriedArm
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.reply_marks import split_thoughts

CAP, ANSWER_CAP = 8, 32
"""Most tokens of the reply to a probe, and to one whose reply should be an answer."""
LEAST_CACHED = 1_024
"""OpenAI and some others cache no shorter prompts."""
_ODD = ("zebra", "quartz")
"""Labels that no model would give by itself."""
_COLOUR, _ZEBRA = user("Name a colour."), user("Reply with exactly this line:\nAnswer: zebra")
_STORY = user("Tell a long story about a journey across the sea.")
_SYSTEM = system(
    "You are part of a short technical test. It checks that a system message reaches the model. Do"
    " not explain anything, do not ask anything, and reply to each message as briefly as you can."
    " The rest of this message only makes it longer, because some chat templates add a short system"
    " message of their own if there is none: one, two, three, four, five, six, seven, eight, nine, ten."
)
_SYSTEM_TOKENS = 20
"""Fewest tokens that `_SYSTEM` adds to a prompt in any vocabulary, unless it is dropped."""
_GRAMMARS: dict[Kind, tuple[Kind, ...]] = {
    "llama.cpp": ("llama.cpp",),
    "vLLM": ("vLLM",),
    "unknown": ("llama.cpp", "vLLM"),
}
"""Kinds of servers whose field for grammars or choices is tried."""
_HAVE_NONE = ("response_format", "format", None)


class EndpointProbes:
    """Asks the endpoint of some arms what neither itself nor their turns tell."""

    def __init__(self, arms: Sequence[TriedArm], endpoint: Endpoint, policy: RequestPolicy) -> None:
        self._arms, self._endpoint = arms, endpoint
        self._model, self._turns = arms[0].model, [turn for arm in arms for turn in arm.turns]
        self._replies = [turn.reply for turn in self._turns]
        self._policy = replace(
            policy,
            retry=RetryPolicy(allowance_s=3.0, startup_allowance_s=3.0),
            max_completion_tokens=2 * ANSWER_CAP,
        )
        self._cap_field: str | None = None
        self._alone: int | None = None
        self._own: tuple[Message, ...] = ()
        self._labels: tuple[str, ...] = _ODD
        self._form: str | None = None
        self._constraint: Kind | None = None

    async def findings(self) -> list[Finding]:
        """Return the properties of the endpoint."""
        return [
            *self._reported(),
            await _probed("reply cap field", self._cap()),
            await _probed("system role", self._system_role()),
            await _probed("JSON schema", self._schema()),
            await _probed("grammar or choice field", self._grammar()),
            await _probed("log-probabilities", self._logprobs()),
            self._usage(),
            await _probed("cached tokens", self._cached()),
            self._reasoning(),
            *self._speed(),
            self._slots(),
        ]

    @asynccontextmanager
    async def _open(self, cap: int, **changes: Any) -> AsyncIterator[OpenAIModel]:  # noqa: ANN401  any argument of a model
        """Open the model with other arguments; its replies are limited to `cap` tokens."""
        settings = self._model
        other = {"context_window", "answer_format", "params", "annealing", "cache_control"}
        params = parse_params(settings.params)
        arguments = settings.model_dump(exclude=other) | {
            "params": {key: each for key, each in params.items() if key not in CAP_FIELDS}
            | ({self._cap_field: cap} if self._cap_field else {}),
            "endpoint": self._endpoint,
            "cap": None if self._cap_field else cap,
            **changes,
        }
        model = OpenAIModel(**arguments)
        try:
            yield model
        finally:
            await model.aclose()

    async def _ask(self, model: OpenAIModel, *messages: Message) -> Reply:
        return await RetryingModel(model, self._policy).complete(messages)

    def _reported(self) -> list[Finding]:
        endpoint, name = self._endpoint, self._model.name
        served = sorted(
            {each.served.model for each in self._replies if each.served and each.served.model}
        )
        listed = ", ".join(endpoint.models[:8]) + ", …" * (len(endpoint.models) > 8)
        known = f"the endpoint lists {listed}" if listed else endpoint.failure or "it lists none"
        window, reported = self._model.window, endpoint.context_window
        return [
            Finding("server", endpoint.kind, endpoint.address),
            Finding(
                "model",
                ", ".join(served) or "unknown",
                f"as named in replies; asked for {name}; {known}",
            ),
            Finding("context window", f"{reported:,}", "reported by the endpoint")
            if reported is not None
            else Finding(
                "context window", f"{window:,}", "assumed or set: the endpoint does not say"
            ),
        ]

    async def _cap(self) -> Finding:
        try:
            return await self._cap_of(_STORY)
        except RequestRefused:
            if not self._turns:
                raise
            self._ask_own_question()
            return await self._cap_of(*self._own)

    async def _cap_of(self, *messages: Message) -> Finding:
        """Return the field that limits the replies to these messages."""
        async with self._open(CAP) as model:
            for _ in range(3):
                reply = await self._ask(model, *messages)
                if reply.served and reply.served.cap:
                    break
            dropped = [f"{name} is {why}" for name, why in model.fields.dropped.items()]
            cap = model.fields.chosen["cap"].name
        self._alone = None if self._own else reply.usage.prompt or None
        self._cap_field, tokens = cap, reply.usage.completion
        if cap is None:
            return Finding("reply cap field", "no", "; ".join(dropped))
        said = f"a limit of {CAP} gave {tokens or 'an unknown number of'} tokens"
        short = ", but the test reply may have ended by itself" * (reply.finish != "length")
        return Finding("reply cap field", cap, "; ".join([said + short, *dropped]))

    def _ask_own_question(self) -> None:
        """Ask the first question of the experiment in all tests.

        Models that answer nothing else, such as reference learners behind an endpoint, need it.
        """
        session = next(arm.session for arm in self._arms if arm.turns)
        self._own = (session.task.system, self._turns[0].question)
        self._labels, self._form = session.task.labels, session.inputs.prompts.answer

    async def _system_role(self) -> Finding:
        name, template = "system role", self._endpoint.system_role
        if template is not None:
            found = "yes" if template else "no"
            return Finding(name, found, "according to the server's chat template")
        played = bool(self._turns) and self._model.system_role
        if self._own:
            found = "yes" if played else "unknown"
            return Finding(name, found, "accepted in the turns" if played else "not tried")
        try:
            async with self._open(CAP, system_role=True) as model:
                reply = await self._ask(model, _SYSTEM, _STORY)
        except RequestRefused as refusal:
            return Finding(name, "no", f"refused: {refusal}")
        if not reply.usage.prompt or self._alone is None:
            return Finding(name, "yes", "accepted; no token counts show whether the model sees it")
        added, words = reply.usage.prompt - self._alone, len(_SYSTEM.text.split())
        found = "yes" if added >= _SYSTEM_TOKENS else "no"
        return Finding(name, found, f"a system message of {words} words adds {added} prompt tokens")

    async def _schema(self) -> Finding:
        try:
            async with self._open(
                ANSWER_CAP, answer_format="schema", labels=self._labels, form=self._form
            ) as model:
                reply = await self._ask(model, *(self._own or [_COLOUR]))
        except RequestRefused as refusal:
            return Finding("JSON schema", "no", f"response_format is refused: {refusal}")
        if reply.finish != "stop":
            if reply.text.lstrip().startswith("{"):
                detail = f"response_format is followed, but the reply took over {ANSWER_CAP} tokens"
                return Finding("JSON schema", "yes", detail)
            return Finding("JSON schema", "unknown", "the reply was cut or withheld")
        followed = reply.served is not None and reply.served.constraint is not None
        if followed:
            self._constraint = "OpenAI"
        detail = "response_format" + (
            " is followed" if followed else f" is ignored: {_short(reply)}"
        )
        return Finding("JSON schema", "yes" if followed else "no", detail)

    async def _grammar(self) -> Finding:
        name, dropped = "grammar or choice field", dict[str, str]()
        kinds = _GRAMMARS.get(self._endpoint.kind, ())
        for kind in kinds:
            endpoint = replace(self._endpoint, kind=kind)
            async with self._open(
                ANSWER_CAP,
                answer_format="choice",
                labels=self._labels,
                form=self._form,
                endpoint=endpoint,
            ) as model:
                for _ in range(3):
                    used = model.fields.chosen["constraint"].name
                    if used in _HAVE_NONE:
                        break
                    reply = await self._ask(model, *(self._own or [_COLOUR]))
                    used = reply.served.constraint if reply.served else None
                    if used not in _HAVE_NONE and reply.finish == "stop":
                        self._constraint = kind
                        return Finding(name, "yes", f"{used} is followed")
                dropped |= model.fields.dropped
        if not kinds:
            return Finding(name, "no", f"{self._endpoint.kind} has none that is used here")
        fields = {key: why for key, why in dropped.items() if key not in _HAVE_NONE}
        tried = [f"{key} is {why}" for key, why in fields.items() if "log" not in key]
        return Finding(name, "no" if tried else "unknown", "; ".join(tried))

    async def _logprobs(self) -> Finding:
        name = "log-probabilities"
        if any(reply.label_logprobs for reply in self._replies):
            return Finding(name, "yes", "replies in the turns have those of the labels")
        constrained = self._constraint is not None
        changes: dict[str, Any] = {"answer_format": "logprobs"}
        if self._constraint is not None:
            if self._turns:  # labels that fit no question may not be among the tokens listed
                self._ask_own_question()
            endpoint = replace(self._endpoint, kind=self._constraint)
            changes = {"answer_format": "choice", "endpoint": endpoint}
        try:
            async with self._open(
                ANSWER_CAP, labels=self._labels, form=self._form, **changes
            ) as model:
                reply = await self._ask(model, *(self._own or [_COLOUR if constrained else _ZEBRA]))
                refused = model.fields.dropped.get("logprobs")
        except RequestRefused as refusal:
            return Finding(name, "no", f"refused: {refusal}")
        except InputError as error:
            return Finding(name, "no", str(error))
        if reply.label_logprobs:
            found = "with choice: yes" if constrained else "yes"
            return Finding(name, found, "a test reply has those of the labels")
        if refused:
            return Finding(name, "no", "logprobs is refused")
        if parse_answer(reply.text, self._labels, reply.finish, self._form).answer is None:
            return Finding(name, "unknown", f"the test reply names no label: {_short(reply)}")
        return Finding(name, "no", "those of the labels are not in the test reply")

    def _usage(self) -> Finding:
        with_usage = sum(bool(reply.usage.prompt) for reply in self._replies)
        if not self._replies:
            return Finding("usage", "unknown", "no turn was played")
        detail = f"{with_usage} of {len(self._replies)} replies report tokens"
        return Finding("usage", "yes" if with_usage else "no", detail)

    async def _cached(self) -> Finding:
        name, played = "cached tokens", [arm for arm in self._arms if arm.turns]
        prompt = sum(reply.usage.prompt for reply in self._replies)
        cached = sum(reply.usage.cached for reply in self._replies)
        if cached:
            return Finding(name, "yes", f"{cached:,} of {prompt:,} prompt tokens of the turns")
        if not played or not prompt:
            return Finding(name, "unknown", "replies report no tokens")
        longest = max(played, key=lambda arm: arm.turns[-1].reply.usage.prompt)
        try:
            async with self._open(CAP) as model:
                reply = await self._ask(model, *longest.request)
        except (RequestRefused, ContextOverflow) as refusal:
            return Finding(name, "unknown", f"a repeated request was refused: {refusal}")
        again = f"of {reply.usage.prompt:,} prompt tokens when a request was repeated"
        if reply.usage.cached:
            return Finding(name, "yes", f"none in the turns, but {reply.usage.cached:,} {again}")
        if reply.usage.prompt < LEAST_CACHED:
            return Finding(
                name,
                "unknown",
                f"none {again}; some providers cache no prompt under {LEAST_CACHED:,}",
            )
        return Finding(name, "no", f"none {again}")

    def _reasoning(self) -> Finding:
        apart = sum(bool(each.reasoning_text or each.usage.reasoning) for each in self._replies)
        inline = sum(bool(split_thoughts(each.text)[0].strip()) for each in self._replies)
        of_all = f"of {len(self._replies)} replies"
        if apart:
            return Finding("reasoning", "yes", f"beside the text in {apart} {of_all}")
        if inline:
            return Finding("reasoning", "yes", f"inside the text of {inline} {of_all}")
        return Finding(
            "reasoning",
            "no" if self._replies else "unknown",
            f"none in {len(self._replies)} replies",
        )

    def _speed(self) -> list[Finding]:
        latencies = [reply.latency_s or 0.0 for reply in self._replies]
        tokens = sum(reply.usage.completion for reply in self._replies)
        if not latencies or not sum(latencies):
            return [Finding("latency", "unknown"), Finding("tokens per second", "unknown")]
        return [
            Finding(
                "latency",
                f"{median(latencies):.2f} s",
                f"median of {len(latencies)} requests, one at a time;"
                f" {min(latencies):.2f} to {max(latencies):.2f} s",
            ),
            Finding(
                "tokens per second",
                f"{tokens / sum(latencies):.1f}" if tokens else "unknown",
                "tokens of replies per second of latency, which includes reading the prompt",
            ),
        ]

    def _slots(self) -> Finding:
        slots = self._endpoint.slots
        if slots is None:
            return Finding(
                "slots", "unknown", "only llama.cpp says how many requests run at a time"
            )
        return Finding("slots", f"{slots}", "requests at a time, each with its own prompt cache")


async def _probed(name: str, probe: Awaitable[Finding]) -> Finding:
    """Return the finding of a probe, or why there is none."""
    try:
        return await probe
    except BudgetSpent as spent:
        return Finding(name, "unknown", f"not asked: {spent}")
    except (ModelUnavailable, RequestRefused, ContextOverflow) as failure:
        return Finding(name, "unknown", str(failure))


def _short(reply: Reply) -> str:
    text = " ".join(reply.text.split())
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
