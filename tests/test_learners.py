"""Built-in models parse the messages and answer as documented."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from builders import experiment, played, session
from contracts import check_built_in, check_model
from conversations import DIGITS, LABELS, NUMERALS, TRUTHS, Past, conversation
from icl_loop import Run
from icl_loop.analysis.baseline import baseline
from icl_loop.core.errors import RequestRefused
from icl_loop.core.messages import Image, Message, Reply, assistant, merged, system, user
from icl_loop.models import BUILT_IN, CallableModel, ChatModel, ScriptedModel, open_model
from icl_loop.models.conversation_parser import ConversationParser
from icl_loop.models.reference.algorithms import NearestNeighbour
from icl_loop.models.reference.learner import DistanceCache
from icl_loop.models.simulated.heuristics import Chance
from icl_loop.planning import plan
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.encodings import Pixels, encodings_for
from icl_loop.tasks.encodings.image_text import PIXEL_TEXT_ENCODINGS
from icl_loop.tasks.prompts import PromptSet, open_prompt_set, shipped
from icl_loop.transcripts import read

RANDOM = np.random.default_rng(0)
PICTURES: list[Pixels] = [RANDOM.integers(0, 2, (6, 6)).astype(np.float32) for _ in range(8)]
"""Different black and white images, which every encoding represents exactly."""

MAY_NOT_ANSWER = {"simulated/bad-format", "simulated/format-learner", "simulated/refuser"}

EACH_SET = pytest.mark.parametrize("words", [open_prompt_set(n) for n in shipped()], ids=shipped())
EACH_ENCODING = pytest.mark.parametrize("encoding", encodings_for("picture"))
EACH_BUILT_IN = pytest.mark.parametrize("name", BUILT_IN)


async def answers_of(model: ChatModel, request: Sequence[Message]) -> str:
    """Return the label that a model answers, which must be one of `LABELS`."""
    answer = parse_answer((await model.complete(request)).text, LABELS).answer
    assert answer is not None
    return answer


# ---- the contract --------------------------------------------------------------------------


@EACH_SET
@EACH_ENCODING
@EACH_BUILT_IN
async def test_built_in_models_keep_the_contract(
    name: str, encoding: str, words: PromptSet
) -> None:
    """A built-in model ends in the requested final line, in any prompt set and encoding."""
    past = [Past(DIGITS[1], "4", "correct"), Past(DIGITS[2], "7", "recorded")]
    request = conversation(DIGITS[0], past, words=words, encoding=encoding, labels=NUMERALS)
    reply = await check_built_in(lambda seed: open_model(name, seed=seed), request)
    expecting = open_model(name, seed=1, prompts=words, encoding=encoding)
    assert await expecting.complete(request) == reply
    if reply.text and name not in MAY_NOT_ANSWER:
        assert reply.text.split("\n")[-1] in {words.reply(label) for label in NUMERALS}


async def test_functions_and_scripts_keep_the_contract() -> None:
    """A model made from a function or a script keeps the contract, too."""
    request = conversation(PICTURES[0])
    model = CallableModel(lambda messages: f"{len(messages)} {messages[0].role}")
    assert (await check_model(model, request)).text == "2 system"
    assert await check_model(ScriptedModel(["Answer: 3"]), request) == Reply("Answer: 3")


async def test_a_script_is_followed_to_its_end() -> None:
    """A script gives its replies in order, strings or whole replies, and then refuses."""
    cut = Reply("Ans", finish="length")
    model = ScriptedModel(["one", cut])
    assert [await model.complete([]), await model.complete([])] == [Reply("one"), cut]
    for _ in range(2):
        with pytest.raises(RequestRefused, match="the script has only 2 replies"):
            await check_model(model, [])


@pytest.mark.parametrize(
    "name", sorted(BUILT_IN.keys() - {"simulated/constant", "simulated/oracle"})
)
async def test_answers_depend_on_the_seed(name: str) -> None:
    """The same seed gives the same replies to the same requests, and another seed gives others."""
    requests = [conversation(picture, labels=NUMERALS) for picture in DIGITS]
    models = [open_model(name, seed=seed) for seed in (5, 5, 6)]
    first, again, other = [[await model.complete(each) for each in requests] for model in models]
    assert first == again == [await models[0].complete(each) for each in requests]
    assert first != other


# ---- chance ---------------------------------------------------------------------------------


async def test_chance_is_even() -> None:
    """Chance answers every label about equally often, whatever it was told."""
    model = Chance(seed=3)
    past = [Past(PICTURES[0], "cat", "revealed_correct")]
    requests = [
        conversation((np.arange(16) == cell).reshape(4, 4) * np.float32(shade / 9), shown)
        for cell, shade, shown in product(range(16), range(1, 10), ([], past))
    ]
    counts = Counter([await answers_of(model, request) for request in requests])
    expected = len(requests) / len(LABELS)
    assert set(counts) == set(LABELS)
    # Chi-squared with 4 degrees of freedom: 18.5 is its 99.9 % quantile; the draw never varies.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 18.5


# ---- nearest neighbour ------------------------------------------------------------------------


@EACH_SET
@EACH_ENCODING
@pytest.mark.parametrize("wire", [list, merged])
async def test_nearest_recalls_what_was_revealed(
    words: PromptSet, encoding: str, wire: type
) -> None:
    """Asked again about an image, nearest answers the revealed label, whether it was right or wrong.

    Feedback may be a message of its own or merged with the next question.
    """
    past = [
        Past(picture, "dog", "revealed_incorrect" if label != "dog" else "revealed_correct", label)
        for picture, label in zip(PICTURES, LABELS, strict=False)
    ]
    model = NearestNeighbour()
    for turn in past:
        request = wire(conversation(turn.picture, past, words=words, encoding=encoding))
        assert await answers_of(model, request) == turn.truth


@EACH_SET
@pytest.mark.parametrize("wire", [list, merged])
async def test_nearest_uses_a_confirmed_answer(words: PromptSet, wire: type) -> None:
    """If no label is revealed, a confirmed answer counts as known."""
    past = [Past(PICTURES[0], "Ankle boot", "correct"), Past(PICTURES[1], "dog", "correct")]
    for seed in range(5):
        model = NearestNeighbour(seed)
        for turn in past:
            request = wire(conversation(turn.picture, past, words=words))
            assert await answers_of(model, request) == turn.answer


@EACH_SET
@pytest.mark.parametrize("wire", [list, merged])
async def test_nearest_rules_out_a_refuted_answer(words: PromptSet, wire: type) -> None:
    """A refuted answer is not repeated for the same image; other labels remain possible."""
    wrong = [Past(PICTURES[0], label, "incorrect") for label in LABELS if label != "き"]
    for seed in range(10):
        model = NearestNeighbour(seed)
        request = wire(conversation(PICTURES[0], wrong[:1], words=words))
        assert await answers_of(model, request) != wrong[0].answer
        assert await answers_of(model, wire(conversation(PICTURES[0], wrong, words=words))) == "き"


async def test_a_nearer_refutation_outweighs_a_farther_label() -> None:
    """A label that the nearest image rules out is not taken from a farther one."""
    near, far, farthest = (np.zeros((4, 4), dtype=np.float32) for _ in range(3))
    far[0], farthest[:] = 1, 1
    past = [
        Past(near, "dog", "incorrect"),
        Past(far, "dog", "correct"),
        Past(farthest, "3", "correct"),
    ]
    assert await answers_of(NearestNeighbour(), conversation(near, past)) == "3"


async def test_nearest_guesses_if_nothing_is_known() -> None:
    """Feedback that says nothing, is unknown, or names an unknown label leaves all labels open."""
    recorded = conversation(PICTURES[0], [Past(PICTURES[0], "dog", "recorded")])
    unheard = conversation(PICTURES[0], [Past(PICTURES[0], "dog", "correct")])
    unheard[3] = user("Well done, dog it is!")
    foreign = conversation(PICTURES[0], [Past(PICTURES[0], "dog", "revealed_incorrect", "horse")])
    refuted = [Past(PICTURES[0], label, "incorrect") for label in LABELS]
    for request in (recorded, unheard, foreign, conversation(PICTURES[0], refuted)):
        given_ = {await answers_of(NearestNeighbour(seed), request) for seed in range(60)}
        assert given_ == set(LABELS)


async def test_nearest_reads_free_answers() -> None:
    """An earlier reply in free text counts if an answer can be parsed from it."""
    request = conversation(PICTURES[0], [Past(PICTURES[0], "dog", "correct")])
    request[2] = assistant('I see four legs and a tail. It is a "dog".')
    assert await answers_of(NearestNeighbour(), request) == "dog"
    request[2] = assistant("It is a dog or a cat.")
    assert len({await answers_of(NearestNeighbour(seed), request) for seed in range(20)}) > 2


@given(
    pictures=st.lists(
        arrays.arrays(np.float32, (3, 3), elements=st.integers(0, 9).map(lambda n: n / 9)),
        min_size=1,
        max_size=8,
    ),
    data=st.data(),
)
async def test_nearest_is_nearest(pictures: list[Pixels], data: st.DataObject) -> None:
    """With labels revealed, the answer is the label of one of the nearest images."""
    asked = data.draw(st.sampled_from(pictures)) * np.float32(data.draw(st.sampled_from([0.5, 1])))
    truths = [data.draw(st.sampled_from(LABELS)) for _ in pictures]
    past = [
        Past(picture, truth, "revealed_correct", truth)
        for picture, truth in zip(pictures, truths, strict=True)
    ]
    decode, encode = PIXEL_TEXT_ENCODINGS["grid"].decode, PIXEL_TEXT_ENCODINGS["grid"].encode
    seen = decode(encode(asked))
    distances = [float(np.square(decode(encode(picture)) - seen).sum()) for picture in pictures]
    nearest = {t for t, d in zip(truths, distances, strict=True) if d <= min(distances) + 1e-5}
    assert await answers_of(NearestNeighbour(), conversation(asked, past)) in nearest


async def test_ties_are_settled_by_the_seed() -> None:
    """If the same image had two labels, some seeds answer one and some the other."""
    past = [Past(PICTURES[0], label, "correct") for label in ("cat", "dog")]
    request = conversation(PICTURES[0], past)
    assert {await answers_of(NearestNeighbour(seed), request) for seed in range(20)} == {
        "cat",
        "dog",
    }


# ---- every reference learner --------------------------------------------------------------------

EACH_REFERENCE = pytest.mark.parametrize(
    "name", [n for n in BUILT_IN if n.startswith("reference/")]
)
ALL_BUT_PROTOTYPE = pytest.mark.parametrize(
    "name", ["reference/nearest", "reference/ridge", "reference/propagation"]
)


async def answers_about_digits(
    name: str, shown: Sequence[Past], asked: Sequence[Pixels], seed: int = 1
) -> list[str | None]:
    """Return the answers of a learner about each image after the same turns."""
    model = open_model(name, seed=seed)
    requests = [conversation(picture, shown, labels=NUMERALS) for picture in asked]
    return [parse_answer((await model.complete(each)).text, NUMERALS).answer for each in requests]


def revealed(pictures: Sequence[Pixels], truths: Sequence[str]) -> list[Past]:
    """Return turns in which the label of each image is revealed."""
    return [
        Past(picture, truth, "revealed_correct", truth)
        for picture, truth in zip(pictures, truths, strict=True)
    ]


@EACH_REFERENCE
@pytest.mark.parametrize("wire", [list, merged])
async def test_learners_recall(name: str, wire: type) -> None:
    """Asked again about one of a few different images, a learner answers the label it was told."""
    past = revealed(PICTURES[: len(LABELS)], LABELS)
    for turn in past:
        request = wire(conversation(turn.picture, past))
        assert await answers_of(open_model(name), request) == turn.truth


@ALL_BUT_PROTOTYPE
async def test_learners_rule_out(name: str) -> None:
    """A refuted answer is not repeated for the same image; the last remaining label is answered."""
    wrong = [Past(PICTURES[0], label, "incorrect") for label in LABELS if label != "き"]
    for seed in range(10):
        model = open_model(name, seed=seed)
        request = conversation(PICTURES[0], wrong[:1])
        assert await answers_of(model, request) != wrong[0].answer
        assert await answers_of(model, conversation(PICTURES[0], wrong)) == "き"


@EACH_REFERENCE
async def test_ignorance_leaves_every_label_open(name: str) -> None:
    """Without turns, or with turns that say nothing, every label is answered under some seed."""
    for past in ([], [Past(picture, "dog", "recorded") for picture in PICTURES[:3]]):
        request = conversation(PICTURES[0], past)
        given_ = {await answers_of(open_model(name, seed=seed), request) for seed in range(60)}
        assert given_ == set(LABELS)


@EACH_REFERENCE
async def test_label_names_do_not_matter(name: str) -> None:
    """If labels are renamed, so are the answers, and nothing else changes."""
    others = dict(zip(NUMERALS, NUMERALS[3:] + NUMERALS[:3], strict=True))
    shown, asked = DIGITS[:30], DIGITS[30:]
    plain = await answers_about_digits(name, revealed(shown, TRUTHS[:30]), asked)
    renamed = [others[truth] for truth in TRUTHS[:30]]
    assert await answers_about_digits(name, revealed(shown, renamed), asked) == [
        others[str(answer)] for answer in plain
    ]


@EACH_REFERENCE
async def test_pixel_positions_do_not_matter(name: str) -> None:
    """If the pixels of all images are permuted alike, no answer changes."""
    order = np.random.default_rng(1).permutation(DIGITS[0].size)
    moved = [picture.ravel()[order].reshape(picture.shape) for picture in DIGITS]
    plain, scrambled = [
        await answers_about_digits(name, revealed(pictures[:30], TRUTHS[:30]), pictures[30:])
        for pictures in (DIGITS, moved)
    ]
    assert plain == scrambled


@ALL_BUT_PROTOTYPE
async def test_identical_images_are_handled(name: str) -> None:
    """If all images are the same, a learner answers one of the labels it was told."""
    blank = np.zeros((4, 4), dtype=np.float32)
    past = revealed([blank] * 12, ["dog", "3"] * 6)
    assert await answers_of(open_model(name), conversation(blank, past)) in {"dog", "3"}


@EACH_REFERENCE
@pytest.mark.parametrize("feedback", ["label", "demonstrations"])
async def test_learners_learn(name: str, feedback: str) -> None:
    """With labels revealed, the second half of a session is far above chance on the digits."""
    turns = await played(session(80, model=name, feedback=feedback))
    assert np.mean([turn.feedback.correct for turn in turns[40:]]) > 0.5


@EACH_REFERENCE
async def test_learners_learn_from_tables(name: str) -> None:
    """With labels revealed, learners soon recognise the three kinds of wine."""
    turns = await played(
        session(60, model=name, feedback="label", dataset="wine", encoding="table")
    )
    assert np.mean([turn.feedback.correct for turn in turns[30:]]) > 0.75


@given(
    samples=arrays.arrays(np.float32, (9, 4), elements=st.integers(0, 3).map(lambda n: n / 3)),
    requests=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=9), min_size=1, max_size=9),
)
def test_distances_depend_on_the_pair_alone(
    samples: NDArray[np.float32], requests: list[list[int]]
) -> None:
    """A distance depends on its two samples only, not on what is cached."""
    distances = DistanceCache()
    for chosen in requests:
        shown = samples[chosen]
        measured = distances.pairwise(shown)
        assert np.array_equal(measured, DistanceCache().pairwise(shown))
        assert np.allclose(measured, np.square(shown[:, None] - shown).sum(axis=2))
        measured[:] = -1  # callers may modify the result


async def test_propagation_learns_from_right_and_wrong_alone() -> None:
    """With only right and wrong told, the last of 200 turns are far above chance."""
    turns = await played(session(200, model="reference/propagation", feedback="correctness"))
    assert np.mean([turn.feedback.correct for turn in turns[150:]]) > 0.5


# ---- prompt sets -------------------------------------------------------------------------------


async def test_a_prompt_set_of_your_own(tmp_path: Path) -> None:
    """A learner parses the prompt set it was given; learners with other sets refuse."""
    path = tmp_path / "own.toml"
    path.write_text(
        'extend = "plain"\nanswer = "I pick {label}"\nimage_text.question = "{sample}"\n'
        'told.revealed_correct = "{label}"'
    )
    words = open_prompt_set(str(path))
    past = [Past(PICTURES[0], "dog", "correct"), Past(PICTURES[1], "3", "revealed_correct", "3")]
    request = conversation(PICTURES[0], past, words=words)
    for wired in (request, merged(request)):
        reply = await check_model(NearestNeighbour(0, ConversationParser(words)), wired)
        assert reply.text == "I pick dog"
    for other in (None, open_prompt_set("plain-ja")):
        with pytest.raises(RequestRefused, match="does not begin with the system text"):
            await check_model(NearestNeighbour(0, ConversationParser(other)), request)


async def test_any_prompt_set_works_from_the_plan_to_the_baseline(tmp_path: Path) -> None:
    """Learners, plan and baseline work with a user's set, even one without any fixed words."""
    path = tmp_path / "own.toml"
    path.write_text(
        'extend = "plain"\nanswer = "{label}"\nplaceholder = "X"\n[image_text]\n'
        'system = "{feedback} {encoding} {labels} {answer}"\nquestion = "{sample}"\n'
        'encodings = {grid = "", sparse = ""}'
    )
    arms = [{"name": "feedback"}, {"name": "sparse", "task": {"encoding": "sparse"}}]
    made = experiment(task={"prompts": str(path)}, arms=arms, turns=8)
    result = await Run(made, tmp_path / "out").play()
    for saved in map(read, result.paths):
        assert await baseline(saved) == [turn.feedback.correct for turn in saved.turns]
    assert len((await plan(made, advised=False)).arms) == 2


# ---- requests that cannot be parsed ----------------------------------------------------------

FRAME = system(open_prompt_set("plain").system_text(LABELS, "grid", 6, "label"))
SAME_LABELS = system(open_prompt_set("plain").system_text(("3", "３"), "grid", 6, "label"))
ASKED = conversation(PICTURES[0])[1]
PNG = Message("user", (Image(b"\x89PNG"),))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([], "does not begin with the system text"),
        ([ASKED], "does not begin with the system text"),
        ([system("You are a helpful assistant."), ASKED], "does not begin with the system text"),
        ([system(FRAME.text + " "), ASKED], "does not begin with the system text"),
        ([FRAME], "asks no question"),
        ([FRAME, user("Image: none")], "asks no question"),
        ([FRAME, user(open_prompt_set("plain").tell("correct", ""))], "asks no question"),
        ([FRAME, PNG], "asks no question"),
        ([FRAME, user("Image:\n0 1\n2 3")], "not in the grid encoding"),
        ([FRAME, user("Image:\n000\n00")], "not in the grid encoding"),
        ([FRAME, user("Image:\n00\n00"), ASKED], "differ in size"),
        ([FRAME, user("Image:\n000000000\n" + "000000000\n" * 2 + "000000000"), ASKED], "in size"),
        ([SAME_LABELS, ASKED], "cannot be told from"),
    ],
)
async def test_other_requests_are_refused(request_: list[Message], reason: str) -> None:
    """A request that is not from a session is refused with the reason."""
    for _ in range(2):
        with pytest.raises(RequestRefused, match=reason):
            await check_model(NearestNeighbour(), request_)


def _messages() -> st.SearchStrategy[list[Message]]:
    """Return requests made of valid messages, parts of them, and arbitrary text."""
    texts = st.text() | st.sampled_from(
        [
            *(open_prompt_set(name).system_text(LABELS, "grid", 6, "label") for name in shipped()),
            *(
                open_prompt_set(name).system_text(("3", "３"), "sparse", 6, "none")
                for name in shipped()
            ),
            *(open_prompt_set(name).tell("revealed_correct", "dog") for name in shipped()),
            *(f"Image:\n{text}" for text in ("", "0", "000\n000", "0-9", ".", "[[0.]]", "x" * 99)),
            *("Answer: dog", "Image:", "画像：\n00\n00", ASKED.text, FRAME.text + ASKED.text),
        ]
    )
    made = st.builds(
        lambda make, text: make(text), st.sampled_from([system, user, assistant]), texts
    )
    return st.tuples(st.just([FRAME]) | st.just([]), st.lists(made | st.just(PNG))).map(
        lambda parts: parts[0] + parts[1]
    )


@EACH_BUILT_IN
@given(request_=_messages())
@example(request_=[FRAME, user("Image:\n0"), user("Image:\n00"), ASKED])
async def test_any_request_is_answered_or_refused(name: str, request_: list[Message]) -> None:
    """Any list of messages gets a reply or is refused; nothing else is raised."""
    with suppress(RequestRefused):
        await check_model(open_model(name), request_)
