"""A small transformer over turns, in numpy, with a cache of keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WEIGHTS = Path(__file__).with_name("in_context.npz")
"""The trained weights; `experiments/neural/train.py` writes them."""

Values = NDArray[np.float32]
Codes = NDArray[np.intp]


@dataclass(eq=False)
class Memory:
    """The keys and values of the turns that a network was shown, oldest first.

    Attributes:
        keys: Shape (layers, views, heads, room, width of a head); the first `turns` places are used.
        values: The same.
        turns: Number of turns.
    """

    keys: Values
    values: Values
    turns: int = 0

    def copied(self, turns: int) -> "Memory":
        """Return a copy of the first `turns` turns."""
        return Memory(self.keys.copy(), self.values.copy(), turns)

    def make_room(self) -> None:
        """Double the room if there is none for one more turn."""
        if self.turns == self.keys.shape[3]:
            self.keys, self.values = (
                np.concatenate([each, np.zeros_like(each)], axis=3)
                for each in (self.keys, self.values)
            )


@dataclass(frozen=True, eq=False)
class Network:
    """The network: weights by name, and the arithmetic of one token.

    A turn has two tokens: the question (the sample) and the outcome (the sample, the answer and the
    verdict). A token sees the outcomes of earlier turns and itself. There are no positions, so the
    number of turns has no limit. Tokens are computed one at a time, so that a result does not depend
    on what is cached.
    """

    weights: Mapping[str, Values]

    @cached_property
    def labels(self) -> int:
        """The largest number of labels."""
        return int(self.weights["out"].shape[1])

    @cached_property
    def inputs(self) -> int:
        """The number of values of a sample."""
        return int(self.weights["sample"].shape[0])

    @cached_property
    def _layers(self) -> list[Mapping[str, Values]]:
        count = sum(name.endswith(".qkv") for name in self.weights)
        names = ("attention_scale", "qkv", "mix", "hidden_scale", "up", "down")
        return [{name: self.weights[f"{n}.{name}"] for name in names} for n in range(count)]

    @cached_property
    def _heads(self) -> int:
        return int(self.weights["heads"])

    def memory(self, views: int = 1) -> Memory:
        """Return an empty memory of a conversation that is seen in several ways."""
        width = self.weights["question"].size
        keys, values = np.zeros(
            (2, len(self._layers), views, self._heads, 32, width // self._heads), dtype=np.float32
        )
        return Memory(keys, values)

    def add_turn(self, memory: Memory, sample: Values, outcome: Codes) -> None:
        """Add a turn to the memory.

        Args:
            memory: The turns before it.
            sample: Shape (views, inputs).
            outcome: Shape (views,). The code of a label if it is known to be right, `labels` more if it was told to
                be wrong, and twice `labels` more if the answer was not judged.
        """
        self._token(memory, sample @ self.weights["sample"] + self.weights["outcome"][outcome])
        memory.turns += 1

    def log_probabilities(self, memory: Memory, sample: Values, labels: int) -> Values:
        """Return the log probability of each of the first `labels` codes, shape (views, labels)."""
        final = self._token(memory, sample @ self.weights["sample"] + self.weights["question"])
        logits = (_normalised(final, self.weights["scale"]) @ self.weights["out"])[:, :labels]
        logits = logits - logits.max(axis=1, keepdims=True)
        scores: Values = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return scores

    def _token(self, memory: Memory, state: Values) -> Values:
        """Return the final states of a token, shape (views, width).

        Its keys and values are left in the next free place.
        """
        memory.make_room()
        place, shape = memory.turns, (len(state), 3, self._heads, -1)
        for layer, keys, values in zip(self._layers, memory.keys, memory.values, strict=True):
            inner = _normalised(state, layer["attention_scale"]) @ layer["qkv"]
            query, keys[:, :, place], values[:, :, place] = np.moveaxis(inner.reshape(shape), 1, 0)
            scores = keys[:, :, : place + 1] @ query[..., None]
            scores /= np.sqrt(np.float32(query.shape[-1]))
            shares = np.exp(scores - scores.max(axis=2, keepdims=True))
            shares /= shares.sum(axis=2, keepdims=True)
            seen = np.swapaxes(shares, 2, 3) @ values[:, :, : place + 1]
            state = state + seen.reshape(state.shape) @ layer["mix"]
            hidden = _normalised(state, layer["hidden_scale"]) @ layer["up"]
            state = state + _gelu(hidden) @ layer["down"]
        return state


@lru_cache(1)
def trained() -> Network:
    """Return the network that comes with the package."""
    with np.load(WEIGHTS) as file:
        return Network({name: file[name].astype(np.float32) for name in file.files})


def _normalised(state: Values, scale: Values) -> Values:
    """Return each state divided by its root mean square, scaled (Zhang and Sennrich 2019)."""
    root: Values = (
        state / np.sqrt(np.square(state).mean(axis=1, keepdims=True) + np.float32(1e-6)) * scale
    )
    return root


def _gelu(values: Values) -> Values:
    """Return the tanh approximation of the Gaussian error linear unit (Hendrycks and Gimpel 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (values + np.float32(0.044715) * values**3)
    activated: Values = np.float32(0.5) * values * (1 + np.tanh(inner))
    return activated
