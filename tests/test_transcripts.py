"""Transcripts lose nothing, write nothing twice, and read back as they were played."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from builders import played, session, transcripts_of, without_checksum, without_times
from command_line import Command
from format_tables import PAGE, field_tables
from icl_loop.analysis import frame, sessions
from icl_loop.analysis.arm_roles import Roles
from icl_loop.core.errors import InputError, ReplayMismatch, SettingsMismatch, TranscriptError
from icl_loop.core.messages import Reply, Usage
from icl_loop.experiment import Session
from icl_loop.export import export
from icl_loop.loop import play
from icl_loop.models import ChatModel, ReplayModel, ScriptedModel
from icl_loop.replay.rescoring import rescore
from icl_loop.replay.verification import verify
from icl_loop.transcripts import End, Header, TranscriptWriter, read
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.schema import TurnLine, field_names, line_fields


async def save(chosen: Session, path: Path, model: ChatModel | None = None) -> Path:
    """Play or resume `chosen` in `path`."""
    with TranscriptWriter(path, chosen.header()) as recorder:
        replay = ReplayModel(recorder.saved, then=model or chosen.open_model())
        turns = play(chosen.task, replay, chosen.policy, chosen.window)
        async for _ in recorder.record(turns):
            pass
        recorder.finish("complete", len(chosen.task))
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small saved session."""
    path = tmp_path_factory.mktemp("saved") / "session.jsonl"
    return asyncio.run(save(session(6), path))


def test_a_transcript_reads_back_as_its_session(saved: Path) -> None:
    """Reading returns the header, the turns in order, and the end."""
    chosen = session(6)
    transcript = read(saved)
    fields = {"id", "created", "icl_loop"}
    assert transcript.header.model_dump(exclude=fields) == chosen.header().model_dump(
        exclude=fields
    )
    assert [turn.sample for turn in transcript.turns] == [each.id for each in chosen.task.samples]
    assert transcript.end is not None
    assert (transcript.end.status, transcript.end.turns) == ("complete", 6)


def test_lines_have_the_fields_of_the_schema(saved: Path) -> None:
    """Every line has the fields of its model, in order, and a checksum; empty later ones are left out."""
    header, *turns, end = [json.loads(line) for line in saved.read_text().splitlines()]
    names = [
        name for name in field_names(Header) if name not in ("repeat", "exemplars", "imported")
    ]
    assert [*header] == [*names, CHECKSUM_KEY]
    assert [*end] == [*field_names(End), CHECKSUM_KEY]
    for turn in turns:
        expected = [name for name in field_names(TurnLine) if name != "reasoning_text"]
        assert [*turn] == [*expected, CHECKSUM_KEY]
        assert [*turn["usage"]] == ["prompt", "cached", "completion", "reasoning"]
    assert turns[3]["kept"] == [[0, 2]]


@given(
    text=st.text(),
    usage=st.builds(Usage, *[st.integers(0, 10**6)] * 6),
    logprobs=st.none() | st.dictionaries(st.text(), st.floats(-100, 0)),
    reasoning=st.none() | st.text(),
)
async def test_any_reply_survives_saving(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    usage: Usage,
    logprobs: dict[str, float] | None,
    reasoning: str | None,
) -> None:
    """Any reply reads back as it was saved."""
    path = tmp_path_factory.mktemp("any") / "session.jsonl"
    reply = Reply(text, usage, label_logprobs=logprobs, reasoning_text=reasoning)
    await save(session(1), path, ScriptedModel([reply]))
    (turn,) = read(path).turns
    assert turn.reply.text == reply.text
    assert (turn.reply.usage, turn.reply.label_logprobs) == (usage, logprobs or None)


def test_a_truncated_transcript_keeps_its_complete_turns(saved: Path, tmp_path: Path) -> None:
    """Truncated at any byte, a transcript reads as its complete turns, or is an error without any line."""
    data = saved.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    path = tmp_path / "cut.jsonl"
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        if not whole:
            with pytest.raises(TranscriptError, match=r"cut\.jsonl"):
                read(path)
        else:
            assert len(read(path).turns) == min(whole - 1, 6)


@pytest.mark.parametrize("cut", [0, 1, 900, 2_500, 2_501, 3_000, 4_000])
async def test_a_truncated_session_resumes(saved: Path, tmp_path: Path, cut: int) -> None:
    """A transcript truncated at any byte and resumed equals the uninterrupted one, except for times."""
    path = tmp_path / "session.jsonl"
    path.write_bytes(saved.read_bytes()[:cut])
    await save(session(6), path)
    assert transcripts_of(tmp_path) == transcripts_of(saved.parent)


async def test_resuming_a_complete_session_writes_nothing(saved: Path) -> None:
    """Resuming a complete session leaves its file unchanged."""
    before = saved.read_bytes()
    await save(session(6), saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (session(6, policy="all"), "context.policy"),
        (session(6, feedback="none"), "feedback.kind"),
        (session(7), "turns"),
        (session(6, encoding="ascii"), "task.encoding"),
    ],
)
def test_other_settings_are_not_resumed(saved: Path, other: Session, key: str) -> None:
    """Resuming under other settings is an error that names the first key that differs."""
    before = saved.read_bytes()
    with pytest.raises(SettingsMismatch, match=key.replace(".", r"\.")):
        TranscriptWriter(saved, other.header())
    assert saved.read_bytes() == before


def test_the_size_is_linear_in_turns(tmp_path: Path) -> None:
    """Under `all`, twice as many turns take at most 2.1 times as many bytes."""
    sizes = {}
    for turns in (40, 80):
        chosen = session(turns, policy="all", model="simulated/chance")
        sizes[turns] = asyncio.run(save(chosen, tmp_path / f"{turns}.jsonl")).stat().st_size
    assert sizes[80] / sizes[40] < 2.1


async def test_a_saved_session_verifies(saved: Path) -> None:
    """Every turn of an unchanged transcript verifies."""
    assert await verify(read(saved)) == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("correct", True),
        ("answer", "9"),
        ("label", "0"),
        ("told", "Well done."),
        ("reply", "Answer: 10"),
        ("request", "0" * 32),
        ("question", "Array:\n0"),
        ("kept", [[1, 2]]),
        ("outcome", "refusal"),
        ("sample", "digits/0"),
    ],
)
async def test_verification_finds_edits(
    saved: Path, tmp_path: Path, field: str, value: object
) -> None:
    """Verification fails at the first turn with an edited field, whichever it is, times excepted."""
    lines = [json.loads(line) for line in saved.read_text().splitlines()]
    wrong = next(line for line in lines[4:] if line.get(field) != value)
    wrong[field] = value
    path = tmp_path / "edited.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ReplayMismatch) as caught:
        await verify(read(path))
    assert caught.value.turn == wrong["turn"]


async def test_verification_needs_the_same_data(saved: Path, tmp_path: Path) -> None:
    """Verification fails if the data set is not the one that was played."""
    path = tmp_path / "session.jsonl"
    sha256 = read(saved).header.dataset.sha256
    path.write_text(without_checksum(saved.read_text()).replace(str(sha256), "0" * 64))
    with pytest.raises(InputError, match="SHA-256"):
        await verify(read(path))


@pytest.mark.parametrize(
    ("line", "becomes", "says"),
    [
        (0, "{}", "line 1"),
        (0, "[]", "line 1"),
        (2, "{]", "line 3, the whole line: is not valid JSON"),
        (0, '{"type":"session"}', r"line 1, experiment: is missing"),
        (2, '{"type":"turn"}', r"line 3, turn\.kept: is missing"),
        (2, '{"type":"turn","kept":"x"}', r"line 3, turn\.kept = 'x': must be a list"),
        (2, '{"type":"dance"}', "line 3, the whole line: must have one of the types .*, has dance"),
        (2, "7", "line 3"),
        (2, "", "line 3"),
    ],
)
def test_invalid_lines_are_named(
    saved: Path, tmp_path: Path, line: int, becomes: str, says: str
) -> None:
    """An invalid line is one error that names file, line and field."""
    lines = without_checksum(saved.read_text()).splitlines()
    lines[line] = becomes
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(TranscriptError, match=rf"broken\.jsonl, {says}"):
        read(path)


def test_turns_out_of_order_are_errors(saved: Path, tmp_path: Path) -> None:
    """A missing or repeated turn is one error that names the line."""
    lines = saved.read_text().splitlines(keepends=True)
    for name, chosen in {"missing": [0, 1, 3], "twice": [0, 1, 1], "after": [0, 7, 1]}.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(lines[index] for index in chosen))
        with pytest.raises(TranscriptError, match="line 3"):
            read(path)


async def test_unknown_fields_are_ignored(saved: Path, tmp_path: Path) -> None:
    """A transcript with fields of a later version can be read."""
    lines = [json.loads(line) | {"new": 1} for line in saved.read_text().splitlines()]
    path = tmp_path / "newer.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read(path).turns == read(saved).turns


async def test_two_plays_differ_only_in_times() -> None:
    """Two plays of a session have the same lines, except for the time fields."""
    first, second = [
        [without_times(line_fields(turn)) for turn in await played(session(8))] for _ in range(2)
    ]
    assert first == second


VERSION_1 = Path(__file__).parent / "data" / "version-1"


def test_version_1_can_be_analysed_and_plotted(icl_loop: Command, tmp_path: Path) -> None:
    """Transcripts of version 1 give a frame, the roles of their arms, a curve, and an export."""
    turns, known = frame([VERSION_1]), sessions([VERSION_1])
    assert turns.group_by("arm").len().sort("arm").rows() == [("feedback", 16), ("none", 16)]
    roles = Roles.of("sample", ["feedback", "none"], known)
    assert roles.controls("feedback") == ("none",)
    assert roles.primary == ("feedback", "none")
    curve = tmp_path / "curve.svg"
    assert icl_loop("analyze", VERSION_1).returncode == 0
    assert icl_loop("plot", VERSION_1, "-o", curve).returncode == 0
    assert "<svg" in curve.read_text()
    export([VERSION_1], "parquet", tmp_path / "x.parquet")
    assert_frame_equal(frame([tmp_path / "x.parquet"]), turns)


def test_version_1_is_neither_resumed_nor_verified(icl_loop: Command) -> None:
    """Resuming or verifying a transcript of version 1 is one error that names file and version."""
    path = VERSION_1 / "none-0.jsonl"
    for refused in (lambda: TranscriptWriter(path, session(8).header()), lambda: rescored(path)):
        with pytest.raises(TranscriptError, match=r"none-0\.jsonl has version 1"):
            refused()
    with pytest.raises(TranscriptError, match=r"none-0\.jsonl has version 1"):
        asyncio.run(verify(read(path)))
    assert icl_loop("replay", "--verify", path).returncode == 2
    assert icl_loop("what-if", path, "--policy", "last(5)").returncode == 2


def rescored(path: Path) -> None:
    """Rescore a transcript."""
    rescore(path, ["answers.rule=last"])


def test_the_documentation_is_up_to_date() -> None:
    """`docs/transcripts.md` ends in the tables that `make docs` writes."""
    assert PAGE.read_text().endswith(field_tables())
