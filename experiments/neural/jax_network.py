"""The network behind `neural/in-context` in jax, as it is trained."""

import jax
import jax.numpy as jnp
from jax import Array, random

INPUTS, LABELS = 64, 10
KINDS = 3
"""A label is known, or an answer was told to be wrong, or it was not judged."""

Weights = dict[str, Array]


def initial_weights(key: Array, width: int, layers: int, hidden: int) -> Weights:
    """Return random weights by name."""
    keys = iter(random.split(key, 4 + 4 * layers))

    def normal(*shape: int, scale: float) -> Array:
        return scale * random.normal(next(keys), shape)

    weights = {
        "sample": normal(INPUTS, width, scale=INPUTS**-0.5),
        "question": normal(width, scale=0.5),
        "outcome": normal(KINDS * LABELS, width, scale=0.5),
        "out": normal(width, LABELS, scale=0.1),
        "scale": jnp.ones(width),
    }
    for n in range(layers):
        weights |= {
            f"{n}.attention_scale": jnp.ones(width),
            f"{n}.qkv": normal(width, 3 * width, scale=width**-0.5),
            f"{n}.mix": normal(width, width, scale=(2 * layers * width) ** -0.5),
            f"{n}.hidden_scale": jnp.ones(width),
            f"{n}.up": normal(width, hidden, scale=width**-0.5),
            f"{n}.down": normal(hidden, width, scale=(2 * layers * hidden) ** -0.5),
        }
    return weights


def normalised(state: Array, scale: Array) -> Array:
    """Return each state divided by its root mean square, scaled."""
    return state * jax.lax.rsqrt(jnp.square(state).mean(-1, keepdims=True) + 1e-6) * scale


def log_probabilities(
    weights: Weights, samples: Array, outcomes: Array, labels: Array, heads: int
) -> Array:
    """Return the log probability of each label at every turn, shape (batch, turns, LABELS).

    Args:
        weights: Weights by name.
        samples: Shape (batch, turns, INPUTS).
        outcomes: Integers, shape (batch, turns); see `icl_loop.models.neural.network`.
        labels: How many labels each task has, shape (batch,).
        heads: Number of heads of attention.
    """
    batch, turns, _ = samples.shape
    embedded = samples @ weights["sample"]
    question, outcome = embedded + weights["question"], embedded + weights["outcome"][outcomes]
    state = jnp.concatenate([question, outcome], axis=1)
    is_earlier = jnp.tile(jnp.tril(jnp.ones((turns, turns), dtype=bool), -1), (2, 1))
    for n in range(sum(name.endswith(".qkv") for name in weights)):
        inner = normalised(state, weights[f"{n}.attention_scale"]) @ weights[f"{n}.qkv"]
        query, key, value = jnp.moveaxis(inner.reshape(batch, 2 * turns, 3, heads, -1), 2, 0)
        scale = query.shape[-1] ** -0.5
        scores = jnp.einsum("bthd,bshd->bhts", query, key[:, turns:]) * scale
        scores = jnp.where(is_earlier, scores, -1e30)
        own = jnp.einsum("bthd,bthd->bht", query, key)[..., None] * scale
        shares = jax.nn.softmax(jnp.concatenate([scores, own], axis=-1))
        seen = jnp.einsum("bhts,bshd->bthd", shares[..., :turns], value[:, turns:])
        seen += jnp.moveaxis(shares[..., turns], 1, 2)[..., None] * value
        state += seen.reshape(state.shape) @ weights[f"{n}.mix"]
        inner = normalised(state, weights[f"{n}.hidden_scale"]) @ weights[f"{n}.up"]
        state += jax.nn.gelu(inner) @ weights[f"{n}.down"]
    logits = normalised(state[:, :turns], weights["scale"]) @ weights["out"]
    is_label = jnp.arange(LABELS) < labels[:, None, None]
    return jax.nn.log_softmax(jnp.where(is_label, logits, -1e9))


def play(
    weights: Weights,
    samples: Array,
    truths: Array,
    labels: Array,
    heads: int,
    temperature: Array,
    key: Array,
) -> Array:
    """Return the outcomes of sessions in which the network answers, shape (batch, turns).

    It is told right and wrong after every answer. Answers are drawn at a temperature for each session,
    shape (batch, 1); 0 is the most probable label. Keys and values of earlier turns are kept.
    """
    batch, turns, _ = samples.shape
    layers = sum(name.endswith(".qkv") for name in weights)
    width = weights["question"].size // heads

    def token(state: Array, memory: Array, turn: Array) -> tuple[Array, Array]:
        """Return the final state of a token, and its keys and values in every layer."""
        kept = []
        for n in range(layers):
            inner = normalised(state, weights[f"{n}.attention_scale"]) @ weights[f"{n}.qkv"]
            query, key, value = jnp.moveaxis(inner.reshape(batch, 3, heads, width), 1, 0)
            scores = jnp.einsum("bhd,bshd->bhs", query, memory[n, 0]) * width**-0.5
            scores = jnp.where(jnp.arange(turns) < turn, scores, -1e30)
            own = (query * key).sum(-1, keepdims=True) * width**-0.5
            shares = jax.nn.softmax(jnp.concatenate([scores, own], axis=-1))
            seen = jnp.einsum("bhs,bshd->bhd", shares[..., :turns], memory[n, 1])
            seen += shares[..., turns:] * value
            state += seen.reshape(state.shape) @ weights[f"{n}.mix"]
            inner = normalised(state, weights[f"{n}.hidden_scale"]) @ weights[f"{n}.up"]
            state += jax.nn.gelu(inner) @ weights[f"{n}.down"]
            kept.append(jnp.stack([key, value]))
        return state, jnp.stack(kept)

    def one_turn(memory: Array, turn: Array) -> tuple[Array, Array]:
        embedded = samples[:, turn] @ weights["sample"]
        state, _ = token(embedded + weights["question"], memory, turn)
        logits = normalised(state, weights["scale"]) @ weights["out"]
        logits = jnp.where(jnp.arange(LABELS) < labels[:, None], logits, -1e9)
        noise = random.gumbel(random.fold_in(key, turn), logits.shape)
        answers = (logits + temperature * noise).argmax(-1)
        outcomes = jnp.where(answers == truths[:, turn], answers, LABELS + answers)
        _, kept = token(embedded + weights["outcome"][outcomes], memory, turn)
        return memory.at[:, :, :, turn].set(kept), outcomes

    empty = jnp.zeros((layers, 2, batch, turns, heads, width))
    return jax.lax.scan(one_turn, empty, jnp.arange(turns))[1].T
