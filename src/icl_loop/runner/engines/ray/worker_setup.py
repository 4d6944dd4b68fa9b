"""Everything that models read from files, sent once to each worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tiktoken

from icl_loop.core.tokens import VOCABULARIES, portable_vocabulary, register_vocabulary
from icl_loop.experiment import ModelSettings, Session
from icl_loop.models import ChatModel, is_built_in
from icl_loop.runner.model_pool import ModelFactory, ModelPool, model_key
from icl_loop.tasks import datasets


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What a worker needs to open the models of a run.

    Attributes:
        model_factories: Functions that open the models, by `model_key`.
        datasets: Data sets that simulated models know, by name.
        vocabularies: Vocabularies of the token counters.
    """

    model_factories: Mapping[str, ModelFactory]
    datasets: Mapping[str, datasets.Dataset]
    vocabularies: Sequence[tiktoken.Encoding] = ()

    @classmethod
    def of(cls, pool: ModelPool, sessions: Sequence[Session]) -> "WorkerSetup":
        """Return the setup for these sessions, read from files of this machine.

        Raises:
            InputError: A file is missing.
        """
        known = {_known_dataset(each.settings.model) for each in sessions}
        counters = {each.settings.context.counter for each in sessions}
        return cls(
            model_factories={model_key(each): pool.factory(each) for each in sessions},
            # `replace` makes a copy without cached samples
            datasets={name: replace(datasets.open_dataset(name)) for name in known if name},
            vocabularies=[portable_vocabulary(name) for name in VOCABULARIES if name in counters],
        )

    def open_models(self) -> dict[str, ChatModel]:
        """Open the models.

        Raises:
            InputError: An API key is missing.
        """
        for vocabulary in self.vocabularies:
            register_vocabulary(vocabulary)
        with datasets.override_datasets(self.datasets):
            return {key: open_model() for key, open_model in self.model_factories.items()}


def _known_dataset(model: ModelSettings) -> str | None:
    """Return the name of the data set that a simulated model knows, None if it knows none."""
    name = model.params.get("dataset")
    built_in = is_built_in(model.name, model.base_url)
    return name if built_in and isinstance(name, str) else None
