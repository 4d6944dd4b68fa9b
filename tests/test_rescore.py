"""Tests of rescoring: another answer rule is applied to saved replies."""

import asyncio
import json
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from builders import experiment
from icl_loop.analysis import conclude, frame, sessions
from icl_loop.analysis.arm_roles import Roles
from icl_loop.cli import app
from icl_loop.core.errors import InputError, SettingsMismatch
from icl_loop.experiment import Session, parse
from icl_loop.models import CallableModel, ChatModel
from icl_loop.replay.branching import branches
from icl_loop.replay.rescoring import rescore
from icl_loop.replay.verification import examine
from icl_loop.runner.run import Run
from icl_loop.tasks.answers import AnswerRule, AnswerRuleName, parse_answer
from icl_loop.transcripts import read as read_transcript
from icl_loop.transcripts import read_header
from icl_loop.transcripts.checksum import CHECKSUM_KEY
from icl_loop.transcripts.header import identity
from icl_loop.transcripts.reader import whole_lines
from icl_loop.transcripts.schema import line_of

DIGITS = tuple("0123456789")
FORM = "Answer: {label}"
RULES: tuple[AnswerRuleName, ...] = get_args(AnswerRuleName)
ARMS = [
    {"name": "label", "feedback": {"kind": "label"}},
    {"name": "feedback", "feedback": {"kind": "correctness"}},
    {"name": "yoked", "feedback": {"kind": "yoked", "donor": "feedback"}},
]


def talkative(_: Session) -> ChatModel:
    """Return a model whose replies each rule parses differently."""

    def answer(messages: object) -> str:
        place = len(messages) if isinstance(messages, tuple) else 0
        said = ("Answer: 3", "I see a 3 and then a 4.", "Answer: three", "The answer is 3.")
        return said[place // 3 % 4]

    return CallableModel(answer)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment with replies in several forms."""
    made = experiment(arms=ARMS, probes={"at": [6], "count": 2})
    out = tmp_path_factory.mktemp("sources")
    return asyncio.run(Run(made, out, open_model=talkative).play()).folder


PARSED = {
    "Answer: 3": ("3", "3", "3"),
    "so\n\nAnswer: 3\n\n": ("3", "3", "3"),
    "answer: 3": ("3", None, "3"),
    "The answer is 3.": ("3", None, "3"),
    "It is not a 4.\nAnswer: 3\nBut row 4 is odd": ("3", None, "4"),
    "3 or 8": (None, None, "8"),
    "Answer: three": ("3", None, "3"),
    "Answer: 12": (None, None, None),
    "I cannot say.": (None, None, None),
    "": (None, None, None),
}


@pytest.mark.parametrize("text", PARSED, ids=repr)
def test_each_rule_parses_as_documented(text: str) -> None:
    """`stated` takes a stated answer, `strict` the form of the last line, `last` the last label."""
    found = [parse_answer(text, DIGITS, form=FORM, rule=AnswerRule(name)).answer for name in RULES]
    assert tuple(found) == PARSED[text]


@pytest.mark.parametrize("name", RULES)
def test_other_names_are_accepted(name: AnswerRuleName) -> None:
    """Every rule accepts other names of a label, and none parses a truncated reply."""
    rule = AnswerRule(name, (("trois", "3"), ("drei", "3")))
    assert parse_answer("Answer: trois", DIGITS, form=FORM, rule=rule).answer == "3"
    assert parse_answer("Answer: drei", DIGITS, form=FORM, rule=rule).answer == "3"
    assert parse_answer("Answer: vier", DIGITS, form=FORM, rule=rule).answer is None
    assert parse_answer("Answer: 3", DIGITS, "length", FORM, rule).outcome == "truncated"


def test_contradictory_names_are_rejected() -> None:
    """A name for an unknown label, or for two labels, is rejected."""
    for names, words in (((("x", "11"),), "'11'"), ((("x", "1"), ("x", "2")), "the label '1'")):
        with pytest.raises(InputError, match=words):
            parse_answer("", DIGITS, rule=AnswerRule("stated", names))
    with pytest.raises(InputError, match="did you mean 'strict'"):
        parse({"name": "small", "answers": {"rule": "strickt"}})


def test_the_default_rule_is_not_recorded() -> None:
    """The header records the answer rule only if it is not the default."""
    (session, *_) = experiment().sessions()
    assert "answers" not in session.header().settings
    (strict, *_) = experiment(answers={"rule": "strict"}).sessions()
    assert strict.header().settings["answers"] == {"rule": "strict", "labels": {}}


async def test_a_run_is_scored_by_its_rule(tmp_path: Path) -> None:
    """A run under another rule is scored by that rule, and verifies."""
    told = {}
    for rule in RULES:
        made = experiment(streams=1, answers={"rule": rule}, context={"policy": "per_class(2)"})
        (path,) = (await Run(made, tmp_path / rule, open_model=talkative).play()).paths
        assert (await examine(path)).difference is None
        told[rule] = [turn.answer for turn in read_transcript(path).turns]
    assert len(set(map(tuple, told.values()))) > 1


@pytest.mark.parametrize("rule", RULES)
async def test_replies_are_rescored(sources: Path, tmp_path: Path, rule: AnswerRuleName) -> None:
    """Answer, outcome and score follow the new rule; everything else and the source stay."""
    before = {path: path.read_bytes() for path in sources.iterdir()}
    for path in sorted(sources.glob("*.jsonl")):
        done = rescore(path, [f"answers.rule={rule}"], tmp_path)
        old, new = whole_lines(path), whole_lines(done.path)
        for was, now in zip(map(json.loads, old[1:]), map(json.loads, new[1:]), strict=True):
            scored = ("answer", "outcome", "correct", CHECKSUM_KEY)
            assert {key: was[key] for key in was if key not in scored} == {
                key: now[key] for key in now if key not in scored
            }
            if now["type"] == "turn":
                parsed = parse_answer(now["reply"], DIGITS, form=FORM, rule=AnswerRule(rule))
                assert (now["answer"], now["outcome"]) == (parsed.answer, parsed.outcome)
                assert now["correct"] == (now["answer"] == now["label"])
        assert (old[1:] == new[1:]) == (rule == "stated")
        assert (done.changed == 0) == (rule == "stated")
        assert (await examine(done.path)).difference is None
    assert {path: path.read_bytes() for path in sources.iterdir()} == before


async def test_an_edited_rescored_transcript_does_not_verify(sources: Path, tmp_path: Path) -> None:
    """An edited outcome, told text or reply of a rescored transcript is found."""
    for field, value in (("outcome", "refusal"), ("told", "Well done."), ("reply", "Answer: 8")):
        done = rescore(sources / "label-0.jsonl", ["answers.rule=last"], tmp_path / field)
        lines = [json.loads(line) for line in whole_lines(done.path)]
        lines[4][field] = value
        done.path.write_bytes(b"".join(map(line_of, lines)))
        found = (await examine(done.path)).difference
        assert found is not None
        assert (found.turn, found.cause) == (lines[4]["turn"], "content")


def test_the_header_names_the_source(sources: Path, tmp_path: Path) -> None:
    """The header has the id and settings of the source beside its own."""
    path = sources / "label-0.jsonl"
    done = rescore(path, ["answers.rule=last"], tmp_path)
    header, source = read_header(done.path), read_header(path)
    assert header.source is not None
    assert (header.source.id, header.source.settings) == (source.id, source.settings)
    assert header.settings == {**source.settings, "answers": {"rule": "last", "labels": {}}}
    assert header.id == identity(header.fields()) != source.id


async def test_a_branch_can_be_rescored(sources: Path, tmp_path: Path) -> None:
    """A rescored branch verifies."""
    made = branches([sources / "label-0.jsonl"], 5, ["task.labels=abstract"])
    (path,) = (await Run(made, tmp_path, open_model=talkative).play()).paths
    done = rescore(path, ["answers.rule=last"])
    assert done.path.parent.parent == tmp_path
    assert (await examine(done.path)).difference is None


async def test_rescored_sessions_cannot_be_continued(sources: Path, tmp_path: Path) -> None:
    """A rescored session cannot be rescored, branched or resumed."""
    done = rescore(sources / "label-0.jsonl", ["answers.rule=last"], tmp_path)
    with pytest.raises(InputError, match="already rescored"):
        rescore(done.path, ["answers.rule=strict"], tmp_path)
    with pytest.raises(InputError, match="branch off its source"):
        branches([done.path], 5)
    name = done.path.parent.name
    made = experiment(name=name, arms=ARMS, answers={"rule": "last"})
    with pytest.raises(SettingsMismatch, match="cannot be resumed"):
        await Run(made, tmp_path).play()


def test_nothing_is_overwritten(sources: Path, tmp_path: Path) -> None:
    """Rescoring twice changes nothing; a different transcript is not overwritten."""
    source = tmp_path / "small" / "label-0.jsonl"
    source.parent.mkdir()
    lines = whole_lines(sources / "label-0.jsonl")
    source.write_bytes(b"".join(lines[:8]))
    first = rescore(source, ["answers.rule=last"]).path.read_bytes()
    assert rescore(source, ["answers.rule=last"]).path.read_bytes() == first
    source.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match="holds a different rescored transcript"):
        rescore(source, ["answers.rule=last"])


def test_rescored_sessions_are_analysed_separately(sources: Path, tmp_path: Path) -> None:
    """Source and rescored sessions are two experiments with their own arms and donors."""
    for path in sorted(sources.glob("*.jsonl")):
        done = rescore(path, ["answers.rule=last"], tmp_path)
    folder = done.path.parent
    turns = frame([sources, folder])
    assert set(turns["experiment"].unique()) == {"small", folder.name}
    mine = turns.filter(experiment=folder.name)
    conclude(mine, ("label", "feedback"), sessions([folder]))
    arms = ["label", "feedback", "yoked"]
    assert Roles.of(folder.name, arms, sessions([folder])).mismatches == {}


@pytest.mark.parametrize("name", ["\0", "../up", "a:b", "x" * 300])
def test_a_recorded_name_is_no_path(sources: Path, tmp_path: Path, name: str) -> None:
    """A recorded experiment name that no folder can have is refused, and the message shows it."""
    lines = whole_lines(sources / "label-0.jsonl")
    path = tmp_path / "label-0.jsonl"
    path.write_bytes(line_of({**json.loads(lines[0]), "experiment": name}) + b"".join(lines[1:]))
    with pytest.raises(InputError, match=r"line 1, experiment = .* cannot be the name of a file"):
        rescore(path, ["answers.rule=last"], tmp_path)
    with pytest.raises(InputError, match=r"line 1, experiment = .* cannot be the name of a file"):
        branches([path], 3)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("change", ["feedback.kind=none", "answers.rul=last", "answers.rule=lats"])
def test_invalid_changes_are_rejected(sources: Path, tmp_path: Path, change: str) -> None:
    """Only [answers] can change, and a wrong key or rule gets a suggestion."""
    with pytest.raises(InputError, match=r"answers\.KEY only|did you mean '(rule|last)'"):
        rescore(sources / "label-0.jsonl", [change], tmp_path)


def test_the_command_prints_what_changed(sources: Path, tmp_path: Path) -> None:
    """`rescore` prints how many answers changed in each arm, and accuracy before and after."""
    command = ["rescore", str(sources), "--set", "answers.rule=last", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    arms = [line.split()[0] for line in done.stdout.splitlines()[4:7]]
    assert arms == ["feedback", "label", "yoked"]
    assert "Rescored replies" in done.stdout
    assert "small-rescored-" in done.stdout
