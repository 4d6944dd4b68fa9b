"""The Ray actor that plays sessions, one step per permission."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tiktoken

from icl_loop.core.errors import InputError
from icl_loop.core.tokens import VOCABULARIES, portable_vocabulary, register_vocabulary
from icl_loop.experiment import Session
from icl_loop.models import ChatModel, SharedModel
from icl_loop.runner.engines.ray.cluster import import_ray
from icl_loop.runner.engines.ray.session_steps import SessionStepper, StepResult
from icl_loop.runner.model_pool import (
    ModelFactory,
    ModelPool,
    count_nothing,
    model_key,
    request_counter,
)
from icl_loop.runner.session import Entry
from icl_loop.tasks.datasets import Dataset, open_dataset, override_datasets
from icl_loop.transcripts.header import VERSION


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs to open the models of a run, sent once to each worker.

    Attributes:
        model_factories: Functions that open the models, by `model_key`.
        datasets: Data sets that simulated models know, by name.
        vocabularies: Vocabularies of the token counters.
        counts_tokens: Whether a limit requires the tokens of a request to be counted.
    """

    model_factories: Mapping[str, ModelFactory]
    datasets: Mapping[str, Dataset]
    vocabularies: Sequence[tiktoken.Encoding] = ()
    counts_tokens: bool = False

    @classmethod
    def of(cls, pool: ModelPool, sessions: Sequence[Session]) -> "WorkerSetup":
        """Return the setup for these sessions; raise InputError if a file it needs is missing."""
        models = [each.settings.model for each in sessions]
        known = {each.params.get("dataset") for each in models if each.is_built_in}
        counters = {each.settings.context.counter for each in sessions}
        return cls(
            model_factories={model_key(each): pool.factory(each) for each in sessions},
            # `replace` makes a copy without cached samples
            datasets={name: replace(open_dataset(name)) for name in known if name},
            vocabularies=[portable_vocabulary(name) for name in VOCABULARIES if name in counters],
            counts_tokens=pool.counts_tokens,
        )

    def open_models(self) -> dict[str, ChatModel]:
        """Open the models; raise InputError if an API key is missing."""
        for vocabulary in self.vocabularies:
            register_vocabulary(vocabulary)
        with override_datasets(self.datasets):
            return {key: open_model() for key, open_model in self.model_factories.items()}


class Worker:
    """Plays any number of sessions in its own process, each step when it is permitted.

    Sessions are identified by their file names.
    """

    def __init__(self) -> None:
        self._models: dict[str, ChatModel] = {}
        self._sessions: dict[str, SessionStepper] = {}
        self._counts_tokens = False

    async def identify(self) -> tuple[str, str, str]:
        """Return the version of icl_loop, Ray's id of the machine, and a name for messages."""
        ray = import_ray()
        name = f"the worker on {ray.util.get_node_ip_address()}, process {os.getpid()}"
        return VERSION, ray.get_runtime_context().get_node_id(), name

    async def open(self, setup: WorkerSetup) -> InputError | None:
        """Open the models; return the error if one cannot be opened."""
        self._counts_tokens = setup.counts_tokens
        try:
            self._models = setup.open_models()
        except InputError as error:
            return error
        return None

    async def begin(self, session: Session, saved: Sequence[Entry]) -> StepResult:
        """Begin a session of which `saved` is saved, and play it up to its first request."""
        count = request_counter(session.window.counter) if self._counts_tokens else count_nothing
        is_gated = not session.settings.model.is_built_in
        model = self._models[model_key(session)]
        if isinstance(model, SharedModel):
            model = model.for_session(session.cache_name)
        stepper = SessionStepper(session, saved, model, count if is_gated else None)
        self._sessions[session.file_name] = stepper
        return await stepper.step()

    async def step(self, name: str, attempt: int) -> StepResult:
        """Play a session up to its next request; `attempt` permits the current one."""
        return await self._sessions[name].step(attempt)

    async def drop(self, name: str) -> None:
        """Cancel a session."""
        if session := self._sessions.pop(name, None):
            session.close()
