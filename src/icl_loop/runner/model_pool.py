"""The models of a run, opened once and shared by its sessions."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Self

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message
from icl_loop.core.tokens import REQUEST_TOKENS, Estimator, TokenCounter, count_messages
from icl_loop.experiment import Experiment, Session
from icl_loop.models import ChatModel, Closable, is_built_in
from icl_loop.models.limits import Budget, Cost, PromptBound, RateLimiter
from icl_loop.models.prices import cost_of, free
from icl_loop.models.retrying import RequestPolicy, RetryingModel, RetryPolicy

OpenModel = Callable[[Session], ChatModel]
ModelFactory = Callable[[], ChatModel]


class ModelPool:
    """Opens models on demand and closes them at the end.

    Requests to an endpoint are retried and stay within its rate limits and the budget of the run.
    """

    def __init__(
        self,
        experiment: Experiment,
        budget: Budget,
        concurrency: int,
        open_model: OpenModel | None = None,
    ) -> None:
        """Allow `concurrency` requests per endpoint at a time; `open_model` replaces the models."""
        self._limits, self._price = experiment.limits, experiment.price
        self._budget, self.concurrency, self._open_model = budget, concurrency, open_model
        self._rate_limiters: dict[str | None, RateLimiter] = {}
        self._models: dict[str, ChatModel] = {}
        self._policies: dict[str, RequestPolicy] = {}

    def __getitem__(self, session: Session) -> ChatModel:
        return self._models[model_key(session)]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every model that holds connections."""
        for model in self._models.values():
            if isinstance(model, Closable):
                await model.aclose()

    def open(self, sessions: Iterable[Session]) -> None:
        """Open the models of these sessions.

        Raises:
            InputError: An API key is missing, or the cost is limited and a price unknown.
        """
        for session in sessions:
            if model_key(session) not in self._models:
                model, policy = self.factory(session)(), self.policy(session)
                self._models[model_key(session)] = RetryingModel(model, policy) if policy else model

    def cost(self, session: Session) -> Cost:
        """Return the function that prices the tokens of a session.

        Raises:
            InputError: The cost is limited and the price of the model unknown.
        """
        model = session.settings.model
        cost = cost_of(model.name, model.base_url, self._price)
        if cost is None and self._budget.max_usd is not None:
            raise InputError(
                f"the cost is limited, but no price is known for the model {model.name!r}: add a"
                " [price] table to the experiment, or limit tokens instead"
            )
        return cost or free

    def policy(self, session: Session) -> RequestPolicy | None:
        """Return the request policy of a session's model, None if the model is built in.

        Raises:
            InputError: The cost is limited and the price of the model unknown.
        """
        settings = session.settings.model
        if is_built_in(settings.name, settings.base_url):
            return None
        key = model_key(session)
        if key not in self._policies:
            self._policies[key] = RequestPolicy(
                rate_limiter=self._rate_limiter(settings.base_url),
                budget=self._budget,
                retry=RetryPolicy(allowance_s=self._limits.allowance_s),
                prompt_bound=_prompt_bound(session.window.counter)
                if self.counts_tokens
                else PromptBound(count_nothing),
                max_completion_tokens=_max_completion(session),
                cost=self.cost(session),
            )
        return self._policies[key]

    @property
    def counts_tokens(self) -> bool:
        """Whether a limit requires the tokens of a request to be counted before it is made."""
        return self._budget.is_limited or self._limits.tokens_per_minute is not None

    def factory(self, session: Session) -> ModelFactory:
        """Return a function that opens the model of a session; it can be sent to other machines."""
        if self._open_model is not None:
            return partial(self._open_model, session)
        return session.model_factory(self._limits.timeout_s)

    def _rate_limiter(self, base_url: str | None) -> RateLimiter:
        if base_url not in self._rate_limiters:
            self._rate_limiters[base_url] = RateLimiter(
                requests_per_minute=self._limits.requests_per_minute,
                tokens_per_minute=self._limits.tokens_per_minute,
                max_concurrency=self.concurrency,
            )
        return self._rate_limiters[base_url]


def model_key(session: Session) -> str:
    """Return a key that is equal for sessions that share a model."""
    task, model = session.settings.task, session.settings.model
    parsed = f"{task.prompts} {task.encoding}" if is_built_in(model.name, model.base_url) else ""
    return f"{model.model_dump_json()} {parsed} {session.task.labels}"


def count_nothing(_: Sequence[Message]) -> int:
    """Return 0: the token count of a request if no limit needs it."""
    return 0


def request_counter(counter: TokenCounter) -> Callable[[Sequence[Message]], int]:
    """Return a function that counts the tokens of a request."""
    return lambda messages: REQUEST_TOKENS + count_messages(counter, messages)


def _prompt_bound(counter: TokenCounter) -> PromptBound:
    return PromptBound(request_counter(counter), exact=not isinstance(counter, Estimator))


def _max_completion(session: Session) -> int:
    """Return the most tokens a reply can have: from `model.params`, else `context.reserve`."""
    params = session.settings.model.params
    limit = params.get("max_completion_tokens", params.get("max_tokens"))
    return limit if isinstance(limit, int) else session.settings.context.reserve
