"""The models of a run: how they are opened, and the limits on requests to them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message
from icl_loop.core.tokens import REQUEST_TOKENS, Estimator, TokenCounter, count_messages
from icl_loop.experiment import Experiment, Session
from icl_loop.models import ChatModel
from icl_loop.models.chat import CAP_FIELDS
from icl_loop.models.limits import Budget, Cost, PromptBound, RateLimiter
from icl_loop.models.prices import cost_of, free
from icl_loop.models.retrying import RequestPolicy, RetryPolicy
from icl_loop.runner.discovery import Endpoints, endpoint_key

OpenModel = Callable[[Session], ChatModel]
ModelFactory = Callable[[], ChatModel]
CountTokens = Callable[[Sequence[Message]], int]


@dataclass
class ModelPool:
    """Says how a session's model is opened, retried, rate-limited and charged to the budget.

    Requests to one endpoint share its rate limits, of which `concurrency` is one. `open_model`
    opens the models in place of those in the settings. `endpoints` are what is known of theirs.
    """

    experiment: Experiment
    budget: Budget
    concurrency: int
    open_model: OpenModel | None = None
    endpoints: Endpoints = field(default_factory=dict)
    _free_slots: dict[str, list[int]] = field(default_factory=dict)
    _rate_limiters: dict[str | None, RateLimiter] = field(default_factory=dict)
    _policies: dict[str, RequestPolicy] = field(default_factory=dict)

    def cost(self, session: Session) -> Cost:
        """Return the function that prices tokens; raise InputError if a limit needs an unknown price."""
        model = session.settings.model
        cost = cost_of(model.name, model.base_url, self.experiment.price)
        if cost is None and self.budget.max_usd is not None:
            raise InputError(
                f"the cost is limited, but no price is known for the model {model.name!r}: add a"
                " [price] table to the experiment, or limit tokens instead"
            )
        return cost or free

    def policy(self, session: Session) -> RequestPolicy | None:
        """Return the request policy of a session's model, None if the model is built in."""
        model, limits, key = session.settings.model, self.experiment.limits, model_key(session)
        if model.is_built_in:
            return None
        if key not in self._policies:
            rate_limiter = self._rate_limiters.setdefault(
                model.base_url,
                RateLimiter(
                    requests_per_minute=limits.requests_per_minute,
                    tokens_per_minute=limits.tokens_per_minute,
                    max_concurrency=self.concurrency,
                ),
            )
            counter = session.window.counter
            count = request_counter(counter) if self.counts_tokens else count_nothing
            extra = model.params.get("extra_body")
            params = model.params | (extra if isinstance(extra, dict) else {})
            caps = [params[name] for name in CAP_FIELDS if isinstance(params.get(name), int)]
            self._policies[key] = RequestPolicy(
                rate_limiter=rate_limiter,
                budget=self.budget,
                retry=RetryPolicy(allowance_s=limits.allowance_s),
                prompt_bound=PromptBound(count, exact=not isinstance(counter, Estimator)),
                max_completion_tokens=caps[0] if caps else session.settings.context.reserve,
                cost=self.cost(session),
            )
        return self._policies[key]

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit requires the tokens of a request to be counted before it is made."""
        return self.budget.is_limited or self.experiment.limits.tokens_per_minute is not None

    def factory(self, session: Session) -> ModelFactory:
        """Return a function that opens the model of a session; it can be sent to other machines."""
        if self.open_model is not None:
            return partial(self.open_model, session)
        endpoint = self.endpoints.get(endpoint_key(session.settings.model))
        return session.model_factory(self.experiment.limits.timeout_s, endpoint)

    @contextmanager
    def slot(self, session: Session) -> Iterator[int | None]:
        """Hold a slot of the session's llama.cpp server; None if all are taken or there are none."""
        endpoint = self.endpoints.get(endpoint_key(session.settings.model))
        if endpoint is None or endpoint.slots is None:
            yield None
            return
        free = self._free_slots.setdefault(endpoint.address, list(range(endpoint.slots)))
        slot = free.pop(0) if free else None
        try:
            yield slot
        finally:
            if slot is not None:
                free.append(slot)


def model_key(session: Session) -> str:
    """Return a key that is equal for sessions that share a model."""
    task, model = session.settings.task, session.settings.model
    parsed = f"{task.prompts} {task.encoding}" if model.is_built_in else ""
    seed = session.model_seed if model.is_built_in else session.params
    return f"{model.model_dump_json()} {parsed} {session.task.labels} {seed}"


def count_nothing(_: Sequence[Message]) -> int:
    """Return 0: the token count of a request if no limit needs it."""
    return 0


def request_counter(counter: TokenCounter) -> CountTokens:
    """Return a function that counts the tokens of a request."""
    return lambda messages: REQUEST_TOKENS + count_messages(counter, messages)
