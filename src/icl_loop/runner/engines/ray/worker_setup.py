"""What every worker is sent once: all that its models need and that may not be on its machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tiktoken

from icl_loop.core.tokens import VOCABULARIES, know, portable
from icl_loop.experiment import ModelSettings, Session
from icl_loop.models import ChatModel, is_built_in
from icl_loop.runner.model_pool import ModelPool, Opening, model_key
from icl_loop.tasks import datasets, prompts


@dataclass(frozen=True, slots=True)
class Kit:
    """What the sessions of a run are played with.

    Attributes:
        openings: What opens each model, by its key.
        prompt sets: The sentences that models of our own listen for, by name.
        datasets: The data sets that simulated models know, by name.
        vocabularies: Those by which tokens are counted.
    """

    openings: Mapping[str, Opening]
    prompt_sets: Mapping[str, prompts.PromptSet]
    datasets: Mapping[str, datasets.Dataset]
    vocabularies: Sequence[tiktoken.Encoding] = ()

    @classmethod
    def of(cls, pool: ModelPool, sessions: Sequence[Session]) -> "Kit":
        """Return what these sessions are played with, read from the files of this machine.

        Raises:
            InputError: One of the files is not here.
        """
        known = {_known_to(each.settings.model) for each in sessions}
        counters = {each.settings.context.counter for each in sessions}
        return cls(
            openings={model_key(each): pool.opening(each) for each in sessions},
            prompt_sets={each.settings.task.prompts: each.drawn.prompts for each in sessions},
            datasets={name: _bare(name) for name in known if name is not None},
            vocabularies=[portable(name) for name in VOCABULARIES if name in counters],
        )

    def models(self) -> dict[str, ChatModel]:
        """Open the models.

        Raises:
            InputError: A key is missing.
        """
        for vocabulary in self.vocabularies:
            know(vocabulary)
        with prompts.given(self.prompt_sets), datasets.override_datasets(self.datasets):
            return {key: opening() for key, opening in self.openings.items()}


def _known_to(model: ModelSettings) -> str | None:
    """Return the name of the data set that a model of ours is told to know, None without one."""
    name = model.params.get("dataset")
    ours = is_built_in(model.name, model.base_url)
    return name if ours and isinstance(name, str) else None


def _bare(name: str) -> datasets.Dataset:
    """Return a data set without the samples that it has given out."""
    return replace(datasets.open_dataset(name))
