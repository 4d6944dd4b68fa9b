"""Keyed randomness depends on the whole key and on nothing else."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icl_loop.core.messages import Reply, assistant, user
from icl_loop.core.records import Feedback, Turn, keyed_bits, keyed_index, keyed_order

keys = st.lists(st.integers() | st.text(st.characters()), max_size=4).map(tuple)
"""Any keys, including lone surrogates."""


def test_golden_values() -> None:
    """A key gives the same bits under every version of Python and numpy, whatever its characters."""
    assert keyed_bits(2, 0, "golden").tolist() == [6774860833725432195, 10758505008553977726]
    assert keyed_index(10**9, 7, "label", 1, 2) == 90131321
    assert keyed_index(10**9, 7, "ラベル\U0001fae8", 2) == 380986102  # new in Unicode 15
    assert keyed_order(10, 20230315, "sample", 0, 3).tolist() == [7, 3, 5, 8, 0, 9, 6, 2, 4, 1]


@given(size=st.integers(0, 300), key=keys)
def test_an_order_is_a_permutation(size: int, key: tuple[str | int, ...]) -> None:
    """An order contains each position once, and the same key gives the same order."""
    order = keyed_order(size, *key)
    assert sorted(order.tolist()) == list(range(size))
    assert np.array_equal(order, keyed_order(size, *key))


@given(size=st.integers(1, 2**70), key=keys)
def test_an_index_is_within_its_size(size: int, key: tuple[str | int, ...]) -> None:
    """An index lies in [0, size), and the same key gives the same index."""
    assert 0 <= keyed_index(size, *key) < size
    assert keyed_index(size, *key) == keyed_index(size, *key)


@given(one=keys, other=keys)
def test_different_keys_give_different_bits(
    one: tuple[str | int, ...], other: tuple[str | int, ...]
) -> None:
    """Two keys give the same bits only if they are the same key."""
    assert (keyed_index(2**256, *one) == keyed_index(2**256, *other)) == (one == other)
    assert np.array_equal(keyed_bits(4, *one), keyed_bits(4, *other)) == (one == other)


def test_keys_that_look_alike() -> None:
    """A number differs from its digits, and so do keys whose parts are split at another place."""
    alike: list[tuple[str | int, ...]] = [(), ("",), (1,), ("1",), (1, 1), (11,), ("1", 1)]
    alike += [("a", "b"), ("ab",), ("a', 'b",), ("", "ab"), ("é",), ("\\xe9",)]
    assert len({keyed_index(2**256, *key) for key in alike}) == len(alike)


@given(count=st.integers(0, 50), key=keys)
def test_more_bits_extend_fewer(count: int, key: tuple[str | int, ...]) -> None:
    """Asking for more bits under a key gives the same bits, followed by more."""
    assert np.array_equal(keyed_bits(count + 7, *key)[:count], keyed_bits(count, *key))


def test_calls_are_independent() -> None:
    """A draw does not depend on earlier draws or on numpy's seed."""
    forwards = [keyed_index(1000, 5, "turn", turn) for turn in range(50)]
    np.random.seed(0)  # noqa: NPY002  the global generator must not matter
    backwards = [keyed_index(1000, 5, "turn", turn) for turn in reversed(range(50))]
    assert forwards == backwards[::-1]


def test_indices_are_uniform() -> None:
    """Each of ten indices occurs about equally often, also directly after itself."""
    drawn = [keyed_index(10, 1, "even", turn) for turn in range(10_000)]
    counts = np.bincount(drawn, minlength=10)
    # chi-square of 9 degrees of freedom is above 27.9 once in a thousand
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9
    repeats = sum(one == other for one, other in pairwise(drawn))
    assert abs(repeats - 1000) < 4 * 30  # four standard deviations of a binomial count


def test_orders_are_uniform() -> None:
    """Each of the six orders of three items occurs about equally often."""
    orders = [tuple(keyed_order(3, 1, "orders", turn).tolist()) for turn in range(3000)]
    counts = np.unique([9 * a + 3 * b + c for a, b, c in orders], return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 500) ** 2 / 500).sum() < 20.5  # 5 degrees of freedom, one in a thousand


def test_the_messages_of_a_turn() -> None:
    """A turn is shown as its question, the verbatim reply, and the feedback."""
    question = user("[[0.]]")
    feedback = Feedback(correct=False, told="correct")
    turn = Turn(
        0, "digits/1", "3", question, "4", "ok", feedback, kept=(), request="", reply=Reply("4")
    )
    assert turn.messages == (question, assistant("4"), user("correct"))
