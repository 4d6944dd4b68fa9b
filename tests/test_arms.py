"""Tests of the controls: each changes what it should, and nothing else."""

import json
import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import experiment, played, transcripts_of, without_checksum
from icl_loop.analysis import conclude, frame, sessions
from icl_loop.core.errors import InputError, ReplayMismatch, TranscriptError
from icl_loop.core.messages import assistant
from icl_loop.core.records import Turn
from icl_loop.core.tokens import VOCABULARIES, TokenCounter, token_counter
from icl_loop.experiment import Donor, Session
from icl_loop.experiment.donors import DonorNotFound, find_donor
from icl_loop.models import ScriptedModel
from icl_loop.replay.verification import verify
from icl_loop.runner.run import Run
from icl_loop.tasks.answers import parse_answer
from icl_loop.tasks.encodings import get_encoding, to_pixels
from icl_loop.tasks.encodings.image_text import PixelEncoding
from icl_loop.tasks.feedback import FEEDBACK_KINDS, FeedbackPolicy
from icl_loop.tasks.labels import ABSTRACT_NAMES, SINGLE_TOKENS, abstract, deranged, swapped
from icl_loop.tasks.prompts import open_prompt_set, shipped
from icl_loop.tasks.transforms import MAX_PROJECTED_SIZE, permuted, projected
from icl_loop.transcripts import read
from icl_loop.transcripts.header import DonorIdentity

KEYS = st.tuples(st.integers(0, 2**31), st.integers(0, 10_000))
LABELS = tuple("0123456789")
YOKED: dict[str, Any] = {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}}


def one(turns: int = 12, stream: int = 0, **changes: Any) -> Session:  # noqa: ANN401  any top-level key
    """Return one session; `changes` are top-level settings."""
    made = experiment(turns=turns, streams=stream + 1, **changes)
    return list(made.sessions())[stream]


# ---- labels and pixels ---------------------------------------------------------------------


@given(key=KEYS)
def test_deranged_labels_leave_none_in_place(key: tuple[int, int]) -> None:
    """Deranged labels give every class the name of another one."""
    names = deranged(LABELS, key)
    assert set(names.values()) == set(LABELS)
    assert not any(label == name for label, name in names.items())


@given(key=KEYS)
def test_a_swap_moves_every_name(key: tuple[int, int]) -> None:
    """A swap keeps the set of names and gives every class another one."""
    before = abstract(LABELS, key)
    after = swapped(before, key)
    assert set(after.values()) == set(before.values())
    assert not any(after[label] == before[label] for label in LABELS)


def test_label_maps_differ_by_stream() -> None:
    """Different streams have different label maps."""
    assert len({tuple(abstract(LABELS, (0, stream)).items()) for stream in range(50)}) == 50
    assert len({tuple(deranged(LABELS, (0, stream)).items()) for stream in range(50)}) == 50


@pytest.mark.parametrize("labels", ["abstract", "deranged"])
def test_names_are_listed_in_alphabetical_order(labels: str) -> None:
    """Names are sorted, so that their order does not reveal which class each belongs to."""
    task = one(task={"labels": labels}).task
    assert list(task.labels) == sorted(task.labels)
    assert task.labels != tuple(task.label_map.values())


@pytest.fixture(params=VOCABULARIES)
def vocabulary(request: pytest.FixtureRequest) -> TokenCounter:
    """A tiktoken counter; skips the test if the vocabulary is missing."""
    try:
        return token_counter(request.param)
    except InputError as error:
        pytest.skip(str(error))


def test_abstract_names_are_single_tokens(vocabulary: TokenCounter) -> None:
    """Every name is one token of the vocabulary, with or without a blank before it."""
    assert len(set(SINGLE_TOKENS)) == len(SINGLE_TOKENS) > 300
    assert {vocabulary.count(blank + name) for name in SINGLE_TOKENS for blank in ("", " ")} == {1}


@given(number=st.integers(1, 700), key=KEYS)
def test_any_number_of_labels_has_abstract_names(number: int, key: tuple[int, int]) -> None:
    """Any number of labels get different names of letters, single tokens as long as there are enough."""
    names = [*abstract(tuple(f"class {each}" for each in range(number)), key).values()]
    assert len(set(names)) == number
    assert all(name.isascii() and name.isalpha() and name.islower() for name in names)
    assert parse_answer(f"Answer: {names[-1]}", names).answer == names[-1]
    assert set(names) <= {*SINGLE_TOKENS} or number > len(SINGLE_TOKENS)
    assert set(names) <= {*ABSTRACT_NAMES} or number > len(ABSTRACT_NAMES)


@pytest.mark.parametrize("answer_format", ["text", "choice", "logprobs"])
def test_log_probabilities_need_single_tokens(answer_format: str, tmp_path: Path) -> None:
    """Names that take several tokens are refused where log probabilities of labels are asked."""
    rows = [f"sample {each} of {each % 400},c{each % 400}" for each in range(8_000)]
    (tmp_path / "many.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    made = experiment(
        turns=4,
        streams=1,
        task={"dataset": f"csv:{tmp_path / 'many.csv'}", "labels": "abstract"},
        model={"name": "m", "answer_format": answer_format},
    )
    with (
        nullcontext()
        if answer_format == "text"
        else pytest.raises(InputError, match="302 abstract")
    ):
        made.check()


@pytest.mark.parametrize("prompts", shipped())
def test_feedback_phrases_have_the_same_length(vocabulary: TokenCounter, prompts: str) -> None:
    """The phrases for correct, incorrect and recorded answers have the same number of tokens."""
    told = open_prompt_set(prompts).told
    phrases = told.correct, told.incorrect, told.recorded
    assert len({vocabulary.count(text) for text in phrases}) == 1


@given(key=KEYS)
def test_permuted_pixels_are_the_same_pixels(key: tuple[int, int]) -> None:
    """A permutation keeps the pixel values and the distances between images."""
    move = permuted(4, key)
    one_picture = (np.arange(16, dtype=np.float32) / np.float32(16)).reshape(4, 4)
    moved = move(one_picture)
    assert sorted(moved.ravel()) == sorted(one_picture.ravel())
    other = one_picture.T.copy()
    assert np.isclose(np.square(moved - move(other)).sum(), np.square(one_picture - other).sum())


def test_projected_pixels_keep_distances() -> None:
    """A projection scales the distances between real images by nearly the same factor."""
    session = one(30)
    pictures = [to_pixels(sample.image, 20) for sample in session.task.samples]
    turn = projected(20, (1, 2))
    turned = [turn(picture) for picture in pictures]
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in turned)
    ratios = [
        np.linalg.norm(turned[i] - turned[j]) / np.linalg.norm(pictures[i] - pictures[j])
        for i in range(30)
        for j in range(i)
    ]
    assert np.allclose(ratios, 1 / 3, rtol=0.02)


def test_large_images_are_not_projected() -> None:
    """A projection of large images is rejected before it allocates memory."""
    with pytest.raises(InputError, match=f"a size of at most {MAX_PROJECTED_SIZE}, got 33"):
        projected(33, (0, 0))


async def test_permuted_pixels_are_as_easy_for_the_nearest_neighbour() -> None:
    """The nearest neighbour learns permuted pixels and other names about as well."""
    plain = await played(one(40, feedback={"kind": "label"}))
    for changes in ({"pixels": "permuted"}, {"labels": "abstract"}, {"labels": "deranged"}):
        other = await played(one(40, feedback={"kind": "label"}, task=changes))
        late = [sum(turn.feedback.correct for turn in turns[20:]) for turns in (plain, other)]
        assert abs(late[0] - late[1]) <= 4
        assert late[1] >= 8


# ---- feedback ------------------------------------------------------------------------------


def told(turns: list[Turn]) -> list[str]:
    """Return the feedback told on each turn."""
    return [turn.feedback.told for turn in turns]


def right(turns: list[Turn]) -> list[bool]:
    """Return whether the answer of each turn was correct."""
    return [turn.feedback.correct for turn in turns]


PHRASES = open_prompt_set("plain").told


async def test_flipped_feedback() -> None:
    """Flipped feedback tells the opposite of the true score."""
    turns = await played(one(30, feedback={"kind": "flipped"}))
    expected = [PHRASES.incorrect if correct else PHRASES.correct for correct in right(turns)]
    assert told(turns) == expected
    assert right(turns) == [turn.answer == turn.label for turn in turns]


async def test_noisy_feedback() -> None:
    """Noise flips about the stated share of feedback, and always on the same turns."""
    turns = await played(one(150, model={"name": "simulated/chance"}, feedback={"noise": 0.3}))
    again = await played(one(150, feedback={"noise": 0.3}))
    flipped = [
        [(turn.feedback.told == PHRASES.correct) != turn.feedback.correct for turn in each]
        for each in (turns, again)
    ]
    assert 25 <= sum(flipped[0]) <= 65
    assert flipped[0] == flipped[1]


async def test_noise_of_one_is_flipped() -> None:
    """Noise with probability 1 is flipped feedback."""
    noisy = await played(one(feedback={"noise": 1.0}))
    assert told(noisy) == told(await played(one(feedback={"kind": "flipped"})))


@pytest.mark.parametrize("delay", [1, 3])
async def test_delayed_feedback(delay: int) -> None:
    """Delayed feedback is told the stated number of turns later and says which answer it is about."""
    turns = await played(one(20, feedback={"delay": delay}))
    words = open_prompt_set("plain")
    assert told(turns)[:delay] == [PHRASES.recorded] * delay
    for turn in turns[delay:]:
        (parsed,) = words.parse_feedback(turn.feedback.told)
        assert (parsed.correct, parsed.ago) == (right(turns)[turn.index - delay], delay)


async def test_a_learner_uses_delayed_feedback() -> None:
    """The nearest neighbour assigns delayed feedback to the right answer."""
    late = await played(one(60, feedback={"delay": 1}, task={"labels": "deranged"}))
    at_once = await played(one(60, task={"labels": "deranged"}))
    assert sum(right(late)[30:]) >= sum(right(at_once)[30:]) - 8
    feedback = [open_prompt_set("plain").parse_feedback(each) for each in told(late)]
    assert [part.ago for each in feedback for part in each] == [0, *[1] * 59]


@pytest.mark.parametrize(
    ("only", "phrase"), [("positive", PHRASES.correct), ("negative", PHRASES.incorrect)]
)
async def test_one_sided_feedback(only: str, phrase: str) -> None:
    """One-sided feedback tells one verdict and only acknowledges the other answers."""
    turns = await played(one(30, feedback={"only": only}))
    assert set(told(turns)) == {phrase, PHRASES.recorded}
    honest = [correct == (only == "positive") for correct in right(turns)]
    assert [text == phrase for text in told(turns)] == honest


async def test_demonstrations_show_right_answers() -> None:
    """Demonstrations show the correct label as the answer, and score the model's own answer."""
    session = one(20, feedback={"kind": "demonstrations"})
    turns = await played(session, ScriptedModel(["Answer: 0, I think"] * 20))
    words = open_prompt_set("plain")
    for turn in turns:
        assert turn.messages[1] == assistant(words.reply(turn.label))
        assert turn.feedback.correct == (turn.label == turn.answer)
        assert turn.feedback.told == PHRASES.correct
    assert not all(right(turns))


async def test_replies_can_be_shortened_to_the_answer() -> None:
    """With replies = "answer", later requests show the last line and the transcript the whole reply."""
    session = one(6, context={"replies": "answer"})
    replies = ["It has two loops.\n\nAnswer: 8", "I do not know"] * 3
    turns = await played(session, ScriptedModel(replies))
    assert [turn.messages[1].text for turn in turns] == ["Answer: 8", "I do not know"] * 3
    assert [turn.reply.text for turn in turns] == replies


def test_unsupported_options_of_feedback_are_rejected() -> None:
    """Options that a kind of feedback does not support are rejected."""
    for changes in ({"noise": 0.2}, {"delay": 1}, {"only": "positive"}):
        with pytest.raises(InputError, match="not 'label'"):
            FeedbackPolicy("label", **changes)
    with pytest.raises(InputError, match=r"unknown feedback 'yokd'.*yoked"):
        FeedbackPolicy("yokd")
    assert {FeedbackPolicy(kind).announcement for kind in FEEDBACK_KINDS} == {
        *("correctness", "label", "none", "demonstrations")
    }


# ---- yoked ---------------------------------------------------------------------------------


async def test_a_yoked_session_is_told_the_feedback_of_its_donor(tmp_path: Path) -> None:
    """A yoked session has the system message and feedback of its donor, and its own true score."""
    made = experiment(streams=3, arms=[YOKED, {"name": "feedback"}])
    result = await Run(made, tmp_path).play()
    assert result.complete
    saved = {path.stem: read(path) for path in result.paths}
    for stream in range(3):
        yoked, donor = saved[f"yoked-{stream}"], saved[f"feedback-{(stream + 1) % 3}"]
        assert told(list(yoked.turns)) == told(list(donor.turns))
        assert yoked.header.system == donor.header.system
        assert right(list(yoked.turns)) == [t.answer == t.label for t in yoked.turns]
        assert yoked.header.donor is not None
        assert yoked.header.donor.id == donor.header.id
        assert await verify(yoked) == 12


FORMS: dict[str, dict[str, Any]] = {
    "label": {"kind": "label"},
    "flipped": {"kind": "flipped"},
    "noisy": {"noise": 0.3},
    "positive": {"only": "positive"},
    "negative": {"only": "negative"},
    "delayed": {"delay": 2},
    "delayed and positive": {"delay": 2, "only": "positive"},
}


@pytest.mark.parametrize("form", FORMS)
async def test_feedback_of_any_form_can_be_yoked(form: str, tmp_path: Path) -> None:
    """A yoked session has its donor's announcement, and its verdicts turn by turn; it replays."""
    arms = [YOKED, {"name": "feedback", "feedback": FORMS[form]}]
    result = await Run(experiment(turns=16, arms=arms), tmp_path).play()
    assert result.complete
    saved = {path.stem: read(path) for path in result.paths}
    parse_feedback = open_prompt_set("plain").parse_feedback
    for stream in range(2):
        yoked, donor = saved[f"yoked-{stream}"], saved[f"feedback-{1 - stream}"]
        assert yoked.header.system == donor.header.system
        heard = [[parse_feedback(text) for text in told(list(t.turns))] for t in (yoked, donor)]
        verdicts = [[(one.correct, one.ago) for each in part for one in each] for part in heard]
        assert verdicts[0] == verdicts[1]
        assert (told(list(yoked.turns)) == told(list(donor.turns))) == (form != "label")
        assert await verify(yoked) == 16


DIGITS = st.sampled_from(LABELS)


@given(
    verdicts=st.lists(st.tuples(st.booleans(), DIGITS), min_size=12, max_size=12),
    answers=st.lists(DIGITS | st.none(), min_size=12, max_size=12),
)
def test_a_yoked_label_says_nothing_about_the_samples(
    verdicts: list[tuple[bool, str]], answers: list[str | None]
) -> None:
    """Revealed labels of a yoked session agree with the donor's verdict and do not depend on the samples."""
    words = open_prompt_set("plain")
    phrases = ("revealed_incorrect", "revealed_correct")
    donor_told = tuple(words.tell(phrases[right], label) for right, label in verdicts)
    arms = [YOKED, {"name": "feedback", "feedback": {"kind": "label"}}]
    sessions = {each.arm: each for each in list(experiment(arms=arms).sessions())[:2]}
    identity = DonorIdentity(arm="feedback", stream=1, id="", told_sha256="")
    task = replace(sessions["yoked"], donor=Donor(identity, donor_told)).task
    others = replace(task, samples=task.samples[::-1])
    for turn, (answer, (right, _)) in enumerate(zip(answers, verdicts, strict=True)):
        text = task.score(turn, answer).told
        assert text == others.score(turn, answer).told
        (heard,) = words.parse_feedback(text)
        assert heard.correct == right
        assert heard.label in LABELS
        assert answer is None or (heard.label == answer) == right


async def test_a_yoked_session_needs_a_finished_donor(tmp_path: Path) -> None:
    """If a donor stops, its yoked session stops with an error and is not begun."""
    made = experiment(streams=2, arms=[YOKED, {"name": "feedback"}])
    few = ScriptedModel(["Answer: 1"] * 5)
    broken = await Run(made, tmp_path, open_model=lambda _: few, concurrency=1).play()
    assert any("its donor" in str(stop.reason) for stop in broken.stopped)
    assert not (tmp_path / "small" / "yoked-0.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arms": [{"name": "y", "feedback": {"kind": "yoked", "donor": "fedback"}}, {"name": "feedback"}]}, "no arm 'fedback'.*feedback"),
        ({"arms": [{"name": "y", "feedback": {"kind": "yoked"}}]}, "donor is required for a yoked arm"),
        ({"arms": [{"name": "feedback", "feedback": {"donor": "y"}}]}, "donor = 'y' is not allowed"),
        ({"arms": [YOKED, {"name": "feedback", "feedback": {"kind": "none"}}, {"name": "f"}]}, "kind = 'none' is not told about its own answers; choose one of f"),
        ({"arms": [YOKED, {"name": "feedback", "feedback": YOKED["feedback"]}]}, "kind = 'yoked' is not told"),
        ({"arms": [{**YOKED, "feedback": {**YOKED["feedback"], "delay": 1}}, {"name": "feedback"}]}, "feedback.delay = 1: a yoked arm takes it from its donor 'feedback', where it is 0"),
        ({"arms": [{**YOKED, "feedback": {**YOKED["feedback"], "noise": 0.5}}, {"name": "feedback"}]}, "feedback.noise = 0.5: a yoked arm takes it"),
        ({"feedback": {"donor_kind": "label"}}, "donor_kind is not allowed for kind = 'correctness'"),
        ({"arms": [YOKED, {"name": "feedback", "task": {"prompts": "plain-ja"}}]}, "another prompt set, 'plain-ja'"),
        ({"arms": [YOKED, {"name": "feedback"}], "streams": 1}, "set streams to 2 or more"),
        ({"task": {"swap_at": 12}}, "task.swap_at = 12: the session has 12 turns"),
        ({"probes": {"at": [13]}}, "probes.at = 13: the session has 12 turns"),
        ({"task": {"pixels": "permutd"}}, "permuted"),
        ({"task": {"labels": "abstrct"}}, "abstract"),
        ({"feedback": {"noise": 1.5}}, "feedback.noise"),
        ({"arms": [{"name": "a"}], "analysis": {"primary": ["a", "a"]}}, "two different arms"),
    ],
)  # fmt: skip
def test_invalid_arms_are_rejected(changes: dict[str, Any], complaint: str) -> None:
    """Settings that cannot be played are rejected before the first request."""
    with pytest.raises(InputError, match=complaint):
        experiment(**changes)


async def test_an_edited_donor_is_detected(tmp_path: Path) -> None:
    """A yoked session does not verify if the feedback of its donor was edited or is missing."""
    result = await Run(experiment(arms=[YOKED, {"name": "feedback"}]), tmp_path).play()
    assert result.complete
    donor = tmp_path / "small" / "feedback-1.jsonl"
    donor.write_text(
        without_checksum(donor.read_text()).replace(PHRASES.incorrect, PHRASES.correct, 1)
    )
    with pytest.raises(InputError, match="told something else"):
        await verify(read(tmp_path / "small" / "yoked-0.jsonl"))
    donor.unlink()
    with pytest.raises(InputError, match=r"its donor .*feedback-1\.jsonl is missing"):
        await verify(read(tmp_path / "small" / "yoked-0.jsonl"))


async def test_a_recorded_donor_is_never_outside_of_its_folder(tmp_path: Path) -> None:
    """Whatever names of donor and experiment a header has, no file in another place is opened."""
    result = await Run(experiment(arms=[YOKED, {"name": "feedback"}]), tmp_path / "all").play()
    assert result.complete
    yoked, outside = tmp_path / "all" / "small" / "yoked-0.jsonl", tmp_path / "outside"
    header, donor = read(yoked).header, yoked.with_name("feedback-1.jsonl")
    assert header.donor is not None
    assert find_donor(header, yoked) is not None
    outside.mkdir()
    donor.rename(outside / donor.name)
    arms = (f"{outside}/feedback", "../../outside/feedback", "nul.x", "feed\0back", "a\\b", "")
    homes = (str(outside), "../outside", "..", ".", "", "nul", "out\0side")
    for arm in arms:
        named = header.donor.model_copy(update={"arm": arm})
        with pytest.raises(DonorNotFound, match=r"its donor .*(file on every system|missing)"):
            find_donor(header.model_copy(update={"donor": named}), yoked)
    for home in homes:
        with pytest.raises(DonorNotFound, match=r"its experiment .*file on every system"):
            find_donor(header.model_copy(update={"experiment": home}), yoked)


# ---- swap, reset, probes -------------------------------------------------------------------


async def test_a_swap_changes_names_halfway() -> None:
    """From the swap on, every sample has another name; before it, none."""
    plain = one(20, task={"labels": "abstract"}).task
    swap = one(20, task={"labels": "abstract", "swap_at": 10}).task
    assert swap.labels == plain.labels
    assert [swap.true_label(t) for t in range(10)] == [plain.true_label(t) for t in range(10)]
    assert all(swap.true_label(t) != plain.true_label(t) for t in range(10, 20))


async def test_a_reset_hides_earlier_turns() -> None:
    """After a reset no request shows an earlier turn; before it, requests are unchanged."""
    wiped = await played(one(20, context={"policy": "reset(10) | block"}))
    whole = await played(one(20, context={"policy": "block"}))
    assert [t.request for t in wiped[:10]] == [t.request for t in whole[:10]]
    assert wiped[10].kept == ()
    assert all(turn.kept[0][0] == 10 for turn in wiped[11:])


PROBED = {"probes": {"at": [0, 6, 12], "count": 10}}


async def test_probes_do_not_change_the_session(tmp_path: Path) -> None:
    """Turns are the same with and without probes, and every checkpoint asks the same samples."""
    await Run(experiment(**PROBED), tmp_path / "probed").play()
    await Run(experiment(), tmp_path / "plain").play()
    for path in sorted((tmp_path / "plain" / "small").glob("*.jsonl")):
        probed, plain = read(tmp_path / "probed" / "small" / path.name), read(path)
        assert [(t.request, t.answer) for t in probed.turns] == [
            (t.request, t.answer) for t in plain.turns
        ]
        asked = [[p for p in probed.probes if p.after_turn == after] for after in (0, 6, 12)]
        samples = [[probe.sample for probe in each] for each in asked]
        assert samples[0] == samples[1] == samples[2]
        assert not set(samples[0]) & {turn.sample for turn in probed.turns}
        assert set(Counter(probe.label for probe in asked[0]).values()) == {1}
        assert [probe.kept for probe in asked[1]] == [((0, 5),)] * 10
        assert await verify(probed) == 12


async def test_a_session_with_probes_can_be_resumed(tmp_path: Path) -> None:
    """A session with probes that is cut anywhere and resumed equals the uninterrupted one."""
    made = experiment(streams=1, **PROBED)
    await Run(made, tmp_path / "whole").play()
    whole = transcripts_of(tmp_path / "whole" / "small")
    (data,) = [path.read_bytes() for path in (tmp_path / "whole" / "small").glob("*.jsonl")]
    lines = data.splitlines(keepends=True)
    for count in random.Random(1).sample(range(1, len(lines)), 12):  # noqa: S311  no secrets
        folder = tmp_path / f"cut{count}" / "small"
        folder.mkdir(parents=True)
        (folder / "feedback-0.jsonl").write_bytes(b"".join(lines[:count]) + lines[count][:7])
        await Run(made, folder.parent).play()
        assert transcripts_of(folder) == whole


async def test_an_edited_probe_is_detected(tmp_path: Path) -> None:
    """A probe with an edited score, request, sample or position does not verify."""
    result = await Run(experiment(streams=1, **PROBED), tmp_path).play()
    (path,) = result.paths
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    place = next(i for i, line in enumerate(lines) if line["type"] == "probe")

    def edited(**fields: object) -> Path:
        changed = [*lines[:place], lines[place] | fields, *lines[place + 1 :]]
        other = tmp_path / "edited.jsonl"
        other.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in changed))
        return other

    for fields in ({"correct": not lines[place]["correct"]}, {"request": "0" * 32}):
        with pytest.raises(ReplayMismatch):
            await verify(read(edited(**fields)))
    with pytest.raises(ReplayMismatch, match="sample is 'digits/0x'"):
        await verify(read(edited(sample="digits/0x")))
    with pytest.raises(TranscriptError, match="0 turns precede this probe"):
        read(edited(after_turn=3))


def test_too_many_probes_are_rejected() -> None:
    """More probes than the data set has unused samples are rejected."""
    with pytest.raises(InputError, match="use fewer probes"):
        experiment(probes={"at": [0], "count": 2_000}).check()


@pytest.mark.parametrize("name", ["article", "grid", "ascii", "sparse", "png"])
def test_every_image_encoding_shows_permuted_pixels(name: str) -> None:
    """Permuted images are encoded and decoded like any other image."""
    task = one(2, task={"pixels": "permuted", "encoding": name}).task
    how = get_encoding(name)
    assert isinstance(how, PixelEncoding)
    moved = task.transform(to_pixels(task.samples[0].image, 20))
    assert task.question(0) == task.prompts.section_for(name).ask(how.encode(moved))
    assert np.abs(how.decode(how.encode(moved)) - moved).max() <= 0.5


def test_pixels_of_a_table_cannot_be_permuted() -> None:
    """Permuted pixels are rejected for tables."""
    with pytest.raises(InputError, match="pixels cannot be transformed"):
        experiment(task={"dataset": "iris", "encoding": "table", "pixels": "permuted"}).check()


# ---- stopping early, adding streams ----------------------------------------------------------


CLEAR = {
    "turns": 40,
    "streams": 12,
    "arms": [{"name": "label", "feedback": {"kind": "label"}}, {"name": "stateless", "context": {"policy": "stateless"}}],
    "analysis": {"primary": ["label", "stateless"]},
}  # fmt: skip


async def test_a_clear_effect_stops_a_run_early(tmp_path: Path) -> None:
    """When the evidence suffices, no further stream is begun, and a file records the evidence."""
    run = Run(experiment(**CLEAR), tmp_path, concurrency=2, stop_early=True)
    result = await run.play()
    assert result.complete
    assert result.early_stop is not None
    assert result.early_stop.evidence[-1] >= 20
    assert len(result.early_stop.differences) <= 6
    assert len(result.paths) <= 2 * len(result.early_stop.differences) + 2
    saved = json.loads((run.folder / "stopped-early.json").read_text())
    assert saved["differences"] == list(result.early_stop.differences)
    again = await Run(experiment(**CLEAR), tmp_path, stop_early=True, concurrency=1).play()
    assert again.early_stop is not None
    before = result.early_stop.differences
    assert again.early_stop.differences[: len(before)] == before


async def test_without_an_effect_a_run_does_not_stop_early(tmp_path: Path) -> None:
    """If both arms guess, every stream is played."""
    changes: dict[str, Any] = {**CLEAR, "model": {"name": "simulated/chance"}, "streams": 6}
    result = await Run(experiment(**changes), tmp_path, stop_early=True).play()
    assert result.early_stop is None
    assert len(result.paths) == 12


async def test_stopping_early_needs_a_primary_contrast(tmp_path: Path) -> None:
    """Stopping early without a primary contrast is rejected."""
    with pytest.raises(InputError, match="needs a primary contrast"):
        await Run(experiment(), tmp_path, stop_early=True).play()


async def test_streams_can_be_added_to_yoked_arms(tmp_path: Path) -> None:
    """If streams are added, saved yoked sessions keep their donors."""
    arms = [YOKED, {"name": "feedback"}]
    await Run(experiment(streams=2, arms=arms), tmp_path).play()
    before = transcripts_of(tmp_path / "small")
    result = await Run(experiment(streams=4, arms=arms), tmp_path).play()
    assert result.complete
    after = transcripts_of(tmp_path / "small")
    assert {name: after[name] for name in before} == before
    assert len(after) == 8


# ---- the order of sessions -------------------------------------------------------------------


LADDER: dict[str, Any] = {
    "turns": 60,
    "streams": 12,
    "arms": [YOKED, {"name": "feedback"}, {"name": "none", "feedback": {"kind": "none"}}],
    "analysis": {"primary": ["feedback", "yoked"]},
}


async def test_streams_are_played_in_order(tmp_path: Path) -> None:
    """Streams are played in order, and a donor with the first stream that needs it."""
    begun: list[str] = []

    def note(session: Session, turn: Turn) -> None:
        if turn.index == 0:
            begun.append(session.file_name.removesuffix(".jsonl"))

    made = experiment(**{**LADDER, "turns": 4, "streams": 4})
    await Run(made, tmp_path, concurrency=1, on_turn=note).play()
    assert set(begun[:4]) == {"feedback-0", "feedback-1", "none-0", "yoked-0"}
    assert [set(begun[start : start + 3]) for start in (4, 7)] == [
        {"feedback-2", "none-1", "yoked-1"},
        {"feedback-3", "none-2", "yoked-2"},
    ]
    assert set(begun[10:]) == {"none-3", "yoked-3"}


@pytest.mark.parametrize("concurrency", [1, 32])
async def test_stopping_early_saves_streams(tmp_path: Path, concurrency: int) -> None:
    """A clear effect in a yoked design saves streams, at any concurrency."""
    played = 0

    def note(_: Session, __: Turn) -> None:
        nonlocal played
        played += 1

    made = experiment(**LADDER, model={"name": "reference/propagation"})
    run = Run(made, tmp_path, concurrency=concurrency, stop_early=True, on_turn=note)
    result = await run.play()
    assert result.complete
    assert result.early_stop is not None
    assert played <= 0.75 * 12 * 3 * 60
    turns = frame(result.paths)
    concluded = conclude(turns, sessions=sessions(result.paths))
    assert concluded.verdict == "learned"
    assert concluded.stopped_early


async def test_a_complete_run_did_not_stop_early(tmp_path: Path) -> None:
    """If the evidence suffices only after the last stream, the run is not recorded as stopped early."""
    made = experiment(**{**LADDER, "streams": 5}, model={"name": "reference/propagation"})
    result = await Run(made, tmp_path, stop_early=True, concurrency=1).play()
    assert result.complete
    assert result.early_stop is None or len(result.paths) < 15
    assert (tmp_path / "small" / "stopped-early.json").exists() == (result.early_stop is not None)


async def test_an_edited_donor_stops_the_session(tmp_path: Path) -> None:
    """If the recorded donor was edited to an impossible one, the session stops with an error."""
    made = experiment(arms=[YOKED, {"name": "feedback"}])
    await Run(made, tmp_path).play()
    path = tmp_path / "small" / "yoked-0.jsonl"
    lines = without_checksum(path.read_text()).splitlines(keepends=True)
    lines[0] = lines[0].replace('"donor":{"arm":"feedback"', '"donor":{"arm":"yoked"', 1)
    path.write_text("".join(lines[:2]))
    result = await Run(made, tmp_path).play()
    assert ["is another session" in str(stop.reason) for stop in result.stopped] == [True]


async def test_a_yoked_session_ends_where_its_donor_did(tmp_path: Path) -> None:
    """If the context of a donor fills up, its yoked session ends after as many turns."""
    made = experiment(
        turns=60,
        arms=[YOKED, {"name": "feedback"}],
        context={"policy": "all"},
        model={"name": "simulated/chance", "context_window": 4_000},
    )
    result = await Run(made, tmp_path).play()
    assert result.complete
    for path in result.paths:
        saved = read(path)
        assert saved.end is not None
        assert saved.end.status == "context_full"
        assert len(saved.turns) < 60
        assert await verify(saved) == len(saved.turns)


# ---- rejected settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"headers": {"api-key": "sk-canary"}}, "headers_env"),
        ({"headers": {"X-Goog-Api-Key": "sk-canary"}}, "headers_env"),
        ({"params": {"extra_body": {"api-key": "sk-canary"}}}, "api_key_env"),
        ({"base_url": "http://127.0.0.1:1/v1?key=sk-canary"}, "must not contain a key"),
    ],
)
def test_secrets_are_kept_out_of_files(changes: dict[str, Any], complaint: str) -> None:
    """Secrets in the model table are rejected, and not repeated in the error."""
    with pytest.raises(InputError, match=complaint) as rejected:
        experiment(model={"name": "some-model", **changes})
    assert "canary" not in str(rejected.value)


async def test_probes_are_not_in_the_stream(tmp_path: Path) -> None:
    """A sample with the same content as one of the stream is not used as a probe."""
    rows = [f"{text},{kind}" for kind in "xy" for text in ("one", "two", "three", "four") * 4]
    (tmp_path / "twice.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    made = experiment(
        turns=2,
        streams=1,
        task={"dataset": f"csv:{tmp_path / 'twice.csv'}", "encoding": "text"},
        probes={"at": [2], "count": 2},
    )
    task = next(iter(made.sessions())).task
    asked = {sample.content for sample in task.samples}
    assert not asked & {sample.content for sample in task.probes}
