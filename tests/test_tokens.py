"""Counting tokens: exactly, or by an estimate that our own texts do not exceed."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Image, Message, Text, assistant, system, user
from icl_loop.core.tokens import (
    ESTIMATORS,
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    REQUEST_TOKENS,
    VOCABULARIES,
    Estimator,
    TokenCounter,
    count_message,
    count_messages,
    counter_for,
    token_counter,
)
from icl_loop.tasks.datasets import Dataset, open_dataset
from icl_loop.tasks.datasets.published import PUBLISHED_DATASETS
from icl_loop.tasks.encodings import ENCODINGS, Encoding, Pixels, to_pixels
from icl_loop.tasks.encodings.image_text import PIXEL_TEXT_ENCODINGS
from icl_loop.tasks.feedback import Phrase
from icl_loop.tasks.prompts import Announcements, PromptSet, open_prompt_set, shipped

PUBLISHED_MESSAGE_TOKENS = 3
"""What a message costs beside its text, according to OpenAI's own account."""
SLACK = {"ascii": 2.0, "binary": 2.0}
"""How far above the true count an encoding's estimate may be on average; a quarter for the others."""

ESTIMATES = pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS)
EACH_ENCODING = pytest.mark.parametrize(
    "encoding", PIXEL_TEXT_ENCODINGS.values(), ids=PIXEL_TEXT_ENCODINGS
)
EACH_WORDING = pytest.mark.parametrize(
    "words", [open_prompt_set(n) for n in shipped()], ids=shipped()
)


@pytest.fixture(scope="module", params=VOCABULARIES)
def counted(request: pytest.FixtureRequest) -> tuple[TokenCounter, Estimator]:
    """A true counter and its estimator; skips where the vocabularies have not been put."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with the vocabularies")
    return token_counter(request.param), ESTIMATORS[request.param]


# ---- the estimate against the real vocabularies -------------------------------------------


SQUARES = st.integers(1, 40).flatmap(
    lambda side: arrays.arrays(
        np.float32, (side, side), elements=st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0])
    )
)


@EACH_ENCODING
@settings(max_examples=25)
@given(values=SQUARES)
def test_the_estimate_of_random_pictures(
    counted: tuple[TokenCounter, Estimator], encoding: Encoding, values: Pixels
) -> None:
    """No picture costs more tokens than its estimate."""
    true, estimate = counted
    text = encoding.encode(values)
    assert estimate.count(text) >= true.count(text)


@EACH_ENCODING
def test_the_estimate_of_plain_pictures(
    counted: tuple[TokenCounter, Estimator], encoding: Encoding
) -> None:
    """No plain or striped picture costs more tokens than its estimate, though long runs merge well."""
    for text in map(encoding.encode, _plain_pictures()):
        assert min(_ratios(counted, [text])) >= 1


def _plain_pictures() -> Iterator[Pixels]:
    """Yield even pictures of every shade, and stripes and edges, at several sizes."""
    for side in (1, 8, 20, 31, 63):
        yield from (np.full((side, side), shade / 9, dtype=np.float32) for shade in range(10))
        stripes = np.zeros((side, side), dtype=np.float32)
        stripes[::2] = 1
        yield from (stripes, stripes.T)
        yield np.tri(side, dtype=np.float32)


@EACH_ENCODING
@pytest.mark.parametrize("size", [8, 20])
def test_the_estimate_of_digits(
    counted: tuple[TokenCounter, Estimator], encoding: Encoding, size: int
) -> None:
    """The estimate of real digits is never below, and on average a quarter above at most.

    For ascii and binary, whose merges cannot be guessed, it is twice the true count at most.
    """
    _check_estimates(counted, encoding, _texts(open_dataset("digits"), encoding, size))


@EACH_ENCODING
@pytest.mark.parametrize("size", [20, 28])
def test_the_estimate_of_mnist(
    counted: tuple[TokenCounter, Estimator], encoding: Encoding, size: int, mnist: str
) -> None:
    """The estimate of MNIST is never below, and on average as near as that of the digits."""
    _check_estimates(counted, encoding, _texts(open_dataset(mnist), encoding, size))


def _texts(dataset: Dataset, encoding: Encoding, size: int) -> list[str]:
    samples = (dataset[index] for index in range(0, len(dataset), len(dataset) // 40))
    return [encoding.encode(to_pixels(sample.image, size)) for sample in islice(samples, 40)]


def _check_estimates(
    counted: tuple[TokenCounter, Estimator], encoding: Encoding, texts: list[str]
) -> None:
    ratios = _ratios(counted, texts)
    assert min(ratios) >= 1
    assert np.mean(ratios) <= SLACK.get(encoding.name, 1.25)


def _ratios(counted: tuple[TokenCounter, Estimator], texts: Iterable[str]) -> list[float]:
    true, estimate = counted
    return [estimate.count(text) / true.count(text) for text in texts]


@EACH_WORDING
def test_the_estimate_of_the_promptss(
    counted: tuple[TokenCounter, Estimator], words: PromptSet
) -> None:
    """What a prompt set says is never estimated below, and at most 30 % above on average."""
    labels = tuple("0123456789")
    said = [
        words.system_text(labels, encoding, 20, kind)
        for encoding in ENCODINGS
        for kind in Announcements.model_fields
    ]
    said += [words.tell(phrase, "7") for phrase in get_args(Phrase)]
    said += [words.reply("7")]
    ratios = _ratios(counted, said)
    assert min(ratios) >= 1
    assert np.mean(ratios) <= 1.3


@EACH_WORDING
@pytest.mark.parametrize("name", PUBLISHED_DATASETS)
def test_the_estimate_of_named_labels(
    counted: tuple[TokenCounter, Estimator], words: PromptSet, name: str
) -> None:
    """Whatever labels a published data set has, no message about them is estimated below its cost."""
    true, estimate = counted
    labels = PUBLISHED_DATASETS[name].labels
    frames = [
        words.system_text(labels, encoding, 20, kind)
        for encoding in ENCODINGS
        for kind in Announcements.model_fields
    ]
    for label in labels:
        told = [words.tell(phrase, label) for phrase in get_args(Phrase)]
        for text in (*frames, *told, words.reply(label)):
            cost = true.count(text) + PUBLISHED_MESSAGE_TOKENS
            assert count_message(estimate, user(text)) >= cost


@given(text=st.text("aあ漢一、。です×→é한🙂 \n09ー「」（）", max_size=200))
def test_the_estimate_outside_ascii(counted: tuple[TokenCounter, Estimator], text: str) -> None:
    """Marks that are neither ASCII nor Japanese are estimated from above by their bytes."""
    true, estimate = counted
    foreign = re.sub(r"[^×→é한🙂]", "", text)
    assert true.count(foreign) <= estimate.count(foreign) == len(foreign.encode())


@given(text=st.text())
@example(text="<|endoftext|>")
@example(text="<|endofprompt|> <|im_start|>system")
def test_special_tokens_are_text(counted: tuple[TokenCounter, Estimator], text: str) -> None:
    """The name of a special token in a reply counts as the ordinary text that it is."""
    true, _ = counted
    assert true.count(text) >= bool(text)
    assert true.count("<|endoftext|>") > 1


def test_counters_of_models(counted: tuple[TokenCounter, Estimator]) -> None:
    """Where the vocabularies are at hand, OpenAI's models are counted with their own."""
    true, _ = counted
    models = {"o200k_base": ("gpt-4o", "gpt-4.1-mini"), "cl100k_base": ("gpt-4", "gpt-3.5-turbo")}
    for model in models[true.name]:
        assert counter_for(model).name == true.name


@pytest.mark.parametrize(
    ("messages", "billed"),
    [
        ([user("hello")], 8),
        ([user("Say this is a test!")], 13),
        ([system("You are a helpful assistant."), user("Hello!")], 19),
    ],
)
def test_a_request_counts_what_openai_bills(
    counted: tuple[TokenCounter, Estimator], messages: list[Message], billed: int
) -> None:
    """A request counts as many tokens as OpenAI's API reference shows to be billed for it."""
    true, _ = counted
    assert count_messages(true, messages) + REQUEST_TOKENS == billed


# ---- without a vocabulary ------------------------------------------------------------------


@ESTIMATES
@given(text=st.text(), more=st.text())
def test_any_text_can_be_estimated(estimate: Estimator, text: str, more: str) -> None:
    """Any text has an estimate, which is none for no text, and the same whenever it is asked."""
    assert estimate.count("") == 0
    assert estimate.count(text) >= bool(text)
    assert estimate.count(text) == estimate.count(text)
    assert estimate.count(text + more) >= len((text + more).encode()) // 128


@ESTIMATES
@pytest.mark.parametrize(("encoding", "tokens"), [("grid", 159), ("spaced", 799)])
def test_the_estimate_of_digits_is_exact(estimate: Estimator, encoding: str, tokens: int) -> None:
    """A 20 x 20 picture in digits costs 7 tokens a row and a line end, or one a digit and a blank."""
    text = ENCODINGS[encoding].encode(np.zeros((20, 20), dtype=np.float32))
    assert estimate.count(text) == tokens


@pytest.mark.parametrize("model", ["mistral-large", "no-such-model", "text-davinci-003", ""])
def test_other_models_are_estimated(model: str) -> None:
    """A model whose vocabulary is not one of ours is counted from above under o200k_base."""
    assert counter_for(model) is ESTIMATORS["o200k_base"]


@ESTIMATES
def test_an_estimator_is_had_by_its_name(estimate: Estimator) -> None:
    """The name of a counter gives the counter again."""
    assert token_counter(estimate.name) is estimate


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("o200k", "o200k_base"),
        ("estimate:o200k", "estimate:o200k_base"),
        ("p50k_base", "cl100k_base|o200k_base"),
        ("", "cl100k_base"),
    ],
)
def test_unknown_counters(name: str, near: str) -> None:
    """An unknown counter is refused with the nearest one, or with all."""
    with pytest.raises(InputError, match=f"unknown token counter '{name}': .*({near})"):
        token_counter(name)


WITHOUT_VOCABULARIES = """
from icl_loop.core.errors import InputError
from icl_loop.core.tokens import counter_for, token_counter
for name in ("o200k_base", "cl100k_base"):
    try:
        print(token_counter(name).name)
    except InputError as error:
        print(error)
for model in ("gpt-4o", "gpt-4", "mistral-large"):
    print(counter_for(model).name, counter_for(model).count("Answer: 3"))
"""


def test_without_vocabularies(tmp_path: Path) -> None:
    """Where a vocabulary cannot be had, asking for it says so and where to put it; models are estimated.

    The estimate announces itself, and nothing is left in the cache.
    """
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), nowhere)
    quiet = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_VOCABULARIES],
        env={**quiet, **proxies, "TIKTOKEN_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, *counters = done.stdout.splitlines()
    for name, said in (("o200k_base", first), ("cl100k_base", second)):
        assert said.startswith(f"the vocabulary {name} is not on this machine")
        assert "TIKTOKEN_CACHE_DIR" in said
    names = ("estimate:o200k_base", "estimate:cl100k_base", "estimate:o200k_base")
    assert counters == [f"{name} 4" for name in names]
    assert "tokens are estimated instead" in done.stderr
    assert not list(tmp_path.iterdir())


# ---- messages ------------------------------------------------------------------------------


@ESTIMATES
@given(texts=st.lists(st.text(max_size=50), max_size=5))
def test_messages_are_counted_one_by_one(estimate: Estimator, texts: list[str]) -> None:
    """Messages cost their texts and an overhead each, so a turn can be counted once and for all."""
    messages = [make(text) for text in texts for make in (system, user, assistant)]
    total = 3 * sum(estimate.count(text) + MESSAGE_TOKENS for text in texts)
    assert count_messages(estimate, messages) == total
    assert total == sum(count_message(estimate, message) for message in messages)


@ESTIMATES
def test_images_are_counted(estimate: Estimator) -> None:
    """A picture in a message costs a fixed bound beside the text."""
    message = Message("user", (Text("Array:"), Image(b"png"), Image(b"png")))
    extra = count_message(estimate, message) - count_message(estimate, user("Array:"))
    assert extra == 2 * IMAGE_TOKENS
