"""The models of a run: each that its sessions need is opened once, and shared."""

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
Opening = Callable[[], ChatModel]


class ModelPool:
    """Opens models on demand and closes them all in the end.

    Real models are asked with patience, within the pace of their endpoint and the run's budget.
    """

    def __init__(
        self,
        experiment: Experiment,
        meter: Budget,
        at_once: int,
        open_model: OpenModel | None = None,
    ) -> None:
        """Share `meter` among the models of `experiment`, `at_once` requests an endpoint."""
        self._limits, self._price = experiment.limits, experiment.price
        self._meter, self.at_once, self._open_model = meter, at_once, open_model
        self._paces: dict[str | None, RateLimiter] = {}
        self._models: dict[str, ChatModel] = {}
        self._terms: dict[str, RequestPolicy] = {}

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
            InputError: A key is missing, or money is limited and a price unknown.
        """
        for session in sessions:
            if model_key(session) not in self._models:
                self._models[model_key(session)] = self._opened(session)

    def cost(self, session: Session) -> Cost:
        """Return what the tokens of a session cost.

        Raises:
            InputError: Money is limited and the price of the model unknown.
        """
        model = session.settings.model
        cost = cost_of(model.name, model.base_url, self._price)
        if cost is None and self._meter.max_usd is not None:
            raise InputError(
                f"money is limited, but no list price is known for the model {model.name!r};"
                " state a [price] table in the experiment, or limit tokens instead"
            )
        return cost or free

    def terms(self, session: Session) -> RequestPolicy | None:
        """Return on what terms the model of a session is asked; one of ours is asked freely.

        Raises:
            InputError: Money is limited and the price of the model unknown.
        """
        settings = session.settings.model
        if is_built_in(settings.name, settings.base_url):
            return None
        key = model_key(session)
        if key not in self._terms:
            self._terms[key] = RequestPolicy(
                rate_limiter=self._pace(settings.base_url),
                budget=self._meter,
                retry=RetryPolicy(allowance_s=self._limits.allowance_s),
                prompt_bound=_bound(session.window.counter)
                if self.is_counted
                else PromptBound(uncounted),
                max_completion_tokens=_most_completion(session),
                cost=self.cost(session),
            )
        return self._terms[key]

    @property
    def is_counted(self) -> bool:
        """Whether the tokens of a request are counted before it is made."""
        return self._meter.is_limited or self._limits.tokens_per_minute is not None

    def opening(self, session: Session) -> Opening:
        """Return what opens the model of a session, here or elsewhere, to be asked once a call."""
        if self._open_model is not None:
            return partial(self._open_model, session)
        return session.opening(self._limits.timeout_s)

    def _opened(self, session: Session) -> ChatModel:
        model, terms = self.opening(session)(), self.terms(session)
        return model if terms is None else RetryingModel(model, terms)

    def _pace(self, base_url: str | None) -> RateLimiter:
        if base_url not in self._paces:
            self._paces[base_url] = RateLimiter(
                requests_per_minute=self._limits.requests_per_minute,
                tokens_per_minute=self._limits.tokens_per_minute,
                max_concurrency=self.at_once,
            )
        return self._paces[base_url]


def model_key(session: Session) -> str:
    """Return what is the same for sessions that share a model."""
    task = session.settings.task
    return f"{session.settings.model.model_dump_json()} {task.prompts} {session.task.labels}"


def uncounted(_: Sequence[Message]) -> int:
    """Return 0, where no limit needs to know more."""
    return 0


def _bound(counter: TokenCounter) -> PromptBound:
    return PromptBound(counting(counter), exact=not isinstance(counter, Estimator))


def counting(counter: TokenCounter) -> Callable[[Sequence[Message]], int]:
    """Return a function that counts the tokens of a request."""
    return lambda messages: REQUEST_TOKENS + count_messages(counter, messages)


def _most_completion(session: Session) -> int:
    """Return the tokens that a reply can have: as the request says, or what the window reserves."""
    params = session.settings.model.params
    said = params.get("max_completion_tokens", params.get("max_tokens"))
    return said if isinstance(said, int) else session.settings.context.reserve
