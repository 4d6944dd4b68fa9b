"""Train the network behind `neural/in-context` to learn from right and wrong in its context.

    pip install 'icl-loop[train]'
    python experiments/neural/train.py

Every sequence is a task of its own: images from `digits:train`, or synthetic clusters, seen through a
random projection, with random labels and a history of answers and verdicts, made up or the network's
own. The loss is the log loss of the right label at every turn. Ctrl-C stops; the same command resumes
from the last checkpoint. The folder gets the checkpoint, the weights as `in_context.npz`, and the log,
with one line of JSON per checkpoint after a line with all settings.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, random
from jax_network import INPUTS, LABELS, Weights, initial_weights, log_probabilities, play

from icl_loop.core.records import keyed_index
from icl_loop.tasks.datasets import Dataset, open_dataset

LABEL_COUNTS = jnp.arange(2, LABELS + 1)
COUNT_SHARES = jnp.array([1, 1, 1, 2, 1, 1, 1, 1, 4]) / 13
IMAGE_SHARE = 5 / 8
"""Share of the sequences whose samples are images."""


# ---- tasks -------------------------------------------------------------------------------------


def standardised(images: Array) -> Array:
    """Return each image with mean 0 and standard deviation 1."""
    centred = images - images.mean(-1, keepdims=True)
    return centred / (centred.std(-1, keepdims=True) + 1e-3)


def projected(key: Array, values: Array) -> Array:
    """Return samples seen through a random Gaussian matrix, shape (turns, INPUTS)."""
    matrix = random.normal(key, (values.shape[-1], INPUTS)) / values.shape[-1] ** 0.5
    return values @ matrix


def distorted(key: Array, image: Array, degree: Array) -> Array:
    """Return a square image turned, scaled, sheared and shifted at random, shape (pixels,)."""
    side = round(image.size**0.5)
    turn, wider, higher, shear, *shift = random.normal(key, (6,)) * degree
    turned = jnp.array(
        [
            [jnp.cos(0.15 * turn), -jnp.sin(0.15 * turn)],
            [jnp.sin(0.15 * turn), jnp.cos(0.15 * turn)],
        ]
    )
    stretched = jnp.array([[jnp.exp(0.1 * wider), 0.15 * shear], [0.0, jnp.exp(0.1 * higher)]])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="ij")).reshape(2, -1)
    middle = (side - 1) / 2
    places = turned @ stretched @ (grid - middle) + middle + 0.4 * jnp.stack(shift)[:, None]
    return jax.scipy.ndimage.map_coordinates(image.reshape(side, side), list(places), order=1)


def image_task(key: Array, images: Array, turns: int) -> tuple[Array, Array, Array]:
    """Return samples, right labels, and the number of labels; `images` are (classes, images, pixels).

    Images are distorted and sharpened to a degree of the task's own, and in half of the tasks each pixel
    has a random gain: this makes more and harder tasks out of few images.
    """
    keys = random.split(key, 10)
    labels = random.choice(keys[0], LABEL_COUNTS, p=COUNT_SHARES)
    truths = random.randint(keys[1], (turns,), 0, labels)
    numbers = random.randint(keys[2], (turns,), 0, images.shape[1])
    shown = images[random.permutation(keys[3], LABELS)[truths], numbers]
    degree = random.uniform(keys[7], maxval=1.5)
    shown = jax.vmap(lambda key, image: distorted(key, image, degree))(
        random.split(keys[8], turns), shown
    )
    shown = shown ** jnp.exp(0.5 * random.normal(keys[9]))
    gains = jnp.exp(0.7 * random.normal(keys[4], shown.shape[-1:]))
    gains = jnp.where(random.bernoulli(keys[5]), gains, 1.0)
    return projected(keys[6], standardised(shown) * gains), truths, labels


def cluster_task(key: Array, turns: int) -> tuple[Array, Array, Array]:
    """Return the same of a task whose classes have three Gaussian clusters each."""
    keys = random.split(key, 10)
    labels = random.choice(keys[0], LABEL_COUNTS, p=COUNT_SHARES)
    spectrum = jnp.exp(-jnp.arange(INPUTS) / random.uniform(keys[1], minval=6, maxval=32))
    centres = random.normal(keys[2], (LABELS, 1, INPUTS))
    centres = centres + 0.55 * random.normal(keys[3], (LABELS, 3, INPUTS))
    common, noise = (
        0.7 * random.normal(keys[4], (INPUTS,)),
        random.uniform(keys[5], minval=0.3, maxval=1.1),
    )
    truths = random.randint(keys[6], (turns,), 0, labels)
    clusters = random.randint(keys[7], (turns,), 0, 3)
    shown = centres[truths, clusters] + noise * random.normal(keys[8], (turns, INPUTS)) + common
    shown = shown * spectrum
    return projected(keys[9], shown / jnp.sqrt(jnp.square(shown).mean())), truths, labels


def history(key: Array, truths: Array, labels: Array) -> Array:
    """Return the outcome of each turn of a made-up session, shape (turns,).

    The share of right answers rises from chance to a random height at a random rate. Wrong answers are
    uniform, or prefer some labels for some classes. In 15 % of the tasks all labels are revealed, in
    10 % a tenth of them, and in 15 % two fifths of the turns are not judged.
    """
    turns, keys = truths.size, random.split(key, 9)
    height = random.uniform(keys[0], maxval=0.98)
    delay = jnp.exp(random.uniform(keys[1], maxval=5.0))
    rate = jnp.maximum(1 / labels, height * (1 - jnp.exp(-jnp.arange(turns) / delay)))
    preference = 2.0 * random.bernoulli(keys[2]) * random.normal(keys[3], (LABELS, LABELS))
    drawn = random.gumbel(keys[4], (turns, LABELS)) + preference[truths]
    number = jnp.arange(LABELS)
    wrong = jnp.where((number < labels) & (number != truths[:, None]), drawn, -1e9).argmax(-1)
    answers = jnp.where(random.uniform(keys[5], (turns,)) < rate, truths, wrong)
    kind, silent_kind = random.uniform(keys[6], (2,))
    revealed = jnp.where(kind < 0.15, 1.0, jnp.where(kind < 0.25, 0.1, 0.0))
    unjudged = jnp.where(silent_kind < 0.15, 0.4, 0.0)
    outcomes = jnp.where(answers == truths, answers, LABELS + answers)
    outcomes = jnp.where(random.uniform(keys[7], (turns,)) < revealed, truths, outcomes)
    is_unjudged = random.uniform(keys[8], (turns,)) < unjudged
    return jnp.where(is_unjudged, 2 * LABELS + answers, outcomes)


def loss(
    weights: Weights, key: Array, images: Array, batch: int, turns: int, heads: int, *, own: bool
) -> Array:
    """Return the mean log loss of a batch of new tasks, in nats.

    If `own`, the answers are those of the network, at temperatures from 0 to 1.2.
    """
    tasks, told = random.split(key, (2, batch))
    count = int(batch * IMAGE_SHARE)
    some = jax.vmap(lambda each: image_task(each, images, turns))(tasks[:count])
    others = jax.vmap(lambda each: cluster_task(each, turns))(tasks[count:])
    samples, truths, labels = (jnp.concatenate(pair) for pair in zip(some, others, strict=True))
    if own:
        temperature = random.uniform(told[0], (batch, 1), maxval=1.2)
        fixed = jax.lax.stop_gradient(weights)
        outcomes = play(fixed, samples, truths, labels, heads, temperature, told[1])
    else:
        outcomes = jax.vmap(history)(told, truths, labels)
    scores = log_probabilities(weights, samples, outcomes, labels, heads)
    return -jnp.take_along_axis(scores, truths[..., None], axis=-1).mean()


# ---- training ------------------------------------------------------------------------------------


def by_class(dataset: Dataset) -> Array:
    """Return images as pixels from 0 to 1, equally many of each class, (classes, images, pixels)."""
    pixels = np.asarray(dataset.contents, dtype=np.float32).reshape(len(dataset), -1) / 255
    fewest = int(np.bincount(dataset.classes).min())
    return jnp.array([pixels[dataset.classes == each][:fewest] for each in range(LABELS)])


def accuracy(
    weights: Weights, images: Array, labels: int, turns: int, heads: int, tasks: int = 48
) -> Array:
    """Return the share of right answers at every turn if the network answers, shape (turns,)."""
    keys = random.split(random.key(12_345), (tasks, 4))

    def drawn(key: Array) -> tuple[Array, Array]:
        truths = random.randint(key[0], (turns,), 0, labels)
        numbers = random.randint(key[1], (turns,), 0, images.shape[1])
        shown = images[random.permutation(key[2], LABELS)[truths], numbers]
        return projected(key[3], standardised(shown)), truths

    samples, truths = jax.vmap(drawn)(keys)
    counts, most_probable = jnp.full(tasks, labels), jnp.zeros((tasks, 1))
    outcomes = play(weights, samples, truths, counts, heads, most_probable, keys[0, 0])
    return (outcomes < LABELS).mean(0)


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays to an .npz file, whole or not at all."""
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    os.replace(part, path)  # noqa: PTH105  replaces on every system


def train(settings: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the line of the log at every checkpoint, after it and the weights were written."""
    s, checkpoint = settings, settings.folder / "checkpoint.npz"
    key, images = random.key(s.seed), by_class(open_dataset("digits:train"))
    held_out = by_class(open_dataset("digits:test"))
    rate = optax.warmup_cosine_decay_schedule(
        0, s.rate, min(200, s.steps // 10), s.steps, s.rate * 0.02
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.01)
    )
    weights = initial_weights(key, s.width, s.layers, s.hidden)
    if s.start:
        with np.load(s.start) as file:
            weights = {name: jnp.asarray(file[name], dtype=jnp.float32) for name in weights}
    state, done = (weights, optimiser.init(weights)), 0
    if checkpoint.exists():
        with np.load(checkpoint) as file:
            done = int(file["done"])
            leaves = [jnp.asarray(file[str(n)]) for n in range(len(jax.tree.leaves(state)))]
            state = jax.tree.unflatten(jax.tree.structure(state), leaves)

    def one_step(state: Any, key: Array, images: Array, *, own: bool) -> tuple[Any, Array]:  # noqa: ANN401  of optax
        weights, memory = state
        value, slope = jax.value_and_grad(loss)(
            weights, key, images, s.batch, s.turns, s.heads, own=own
        )
        change, memory = optimiser.update(slope, memory, weights)
        return (optax.apply_updates(weights, change), memory), value

    step = jax.jit(one_step, static_argnames="own")
    check = jax.jit(accuracy, static_argnames=("labels", "turns", "heads"))
    started, losses = time.monotonic(), []
    while done < s.steps:
        own = keyed_index(1_000, s.seed, "own answers", done) < 1_000 * s.own
        state, value = step(state, random.fold_in(key, done + 1), images, own=own)
        losses.append(value)
        done += 1
        if done % s.every == 0 or done == s.steps:
            save(
                checkpoint,
                {"done": done} | {str(n): v for n, v in enumerate(jax.tree.leaves(state))},
            )
            halves = {name: np.asarray(value, np.float16) for name, value in state[0].items()}
            save(s.folder / "in_context.npz", halves | {"heads": np.asarray(s.heads)})
            five, ten = (
                np.asarray(check(state[0], held_out, labels, turns, s.heads))
                for labels, turns in ((5, 60), (10, 200))
            )
            yield {
                "step": done,
                "seconds": round(time.monotonic() - started),
                "loss": round(float(jnp.stack(losses).mean()), 4),
                "5 labels, per 10 turns": (100 * five.reshape(-1, 10).mean(1)).round().tolist(),
                "10 labels, per 20 turns": (100 * ten.reshape(-1, 20).mean(1)).round().tolist(),
            }
            losses = []


def main() -> None:
    """Train, and print and append the log."""
    parser = argparse.ArgumentParser(description="Train the network behind neural/in-context.")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "checkpoints")
    settings = parser.parse_args()
    settings.folder.mkdir(parents=True, exist_ok=True)
    log = settings.folder / "log.jsonl"
    given = {name: value for name, value in vars(settings).items() if name != "folder"}
    if not log.exists():
        log.write_text(json.dumps(given) + "\n")
    before = json.loads(log.read_text().partition("\n")[0])
    if before != given:
        sys.exit(f"{log} is of a run with the settings {before}; use another --folder")
    try:
        for line in train(settings):
            print(json.dumps(line), flush=True)
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command resumes from the last checkpoint")


DEFAULTS: dict[str, Any] = {
    "width": 128,
    "layers": 4,
    "heads": 4,
    "hidden": 256,
    "batch": 48,
    "turns": 70,
    "rate": 1.2e-3,
    "steps": 3_000,
    "every": 250,
    "own": 0.0,
    "start": "",
    "seed": 1,
}
"""`turns` are those of a sequence, `own` is the share of batches with the network's own answers, and
`start` is a file of weights to begin with."""

if __name__ == "__main__":
    main()
