"""Measures tokens per sample and encoding time of each encoding.

On 50 MNIST test images at 20 x 20 where ICL_LOOP_DATA names a folder that holds mnist/, else on
the embedded digits. Exact where TIKTOKEN_CACHE_DIR holds the vocabularies, else estimated.

    python benchmarks/tokens_per_sample.py
"""

import os
import time
from statistics import mean

from icl_loop import InputError, open_dataset
from icl_loop.core.tokens import ESTIMATORS, VOCABULARIES, TokenCounter, token_counter
from icl_loop.tasks.encodings import to_pixels
from icl_loop.tasks.encodings.image_text import PIXEL_TEXT_ENCODINGS

SAMPLES = 50
SIZE = 20


def counter(vocabulary: str) -> TokenCounter:
    """Return the exact counter, or the estimator where the vocabulary cannot be had."""
    try:
        return token_counter(vocabulary)
    except InputError:
        return ESTIMATORS[vocabulary]


def main() -> None:
    """Print the table."""
    dataset = open_dataset("mnist:test" if os.environ.get("ICL_LOOP_DATA") else "digits")
    values = [to_pixels(dataset[index].image, SIZE) for index in range(SAMPLES)]
    counters = [counter(vocabulary) for vocabulary in VOCABULARIES]
    print(f"{SAMPLES} samples of {dataset.name}, {SIZE} x {SIZE}: mean tokens a sample")
    print(f"{'encoding':<10}" + "".join(f"{each.name:>22}" for each in counters) + f"{'ms':>8}")
    for name, encoding in PIXEL_TEXT_ENCODINGS.items():
        start = time.perf_counter()
        texts = [encoding.encode(each) for each in values]
        elapsed = (time.perf_counter() - start) / SAMPLES * 1e3
        tokens = [mean(each.count(text) for text in texts) for each in counters]
        print(f"{name:<10}" + "".join(f"{n:>22.1f}" for n in tokens) + f"{elapsed:>8.3f}")


if __name__ == "__main__":
    main()
