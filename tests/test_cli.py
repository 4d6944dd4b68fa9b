"""The command line: output, exit codes and errors."""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer import Exit

from builders import without_checksum
from command_line import Command, Done
from endpoint import completion, error, serving
from icl_loop.analysis import frame
from icl_loop.cli.options import check_writable
from icl_loop.cli.run import report_result
from icl_loop.core.errors import InputError
from icl_loop.experiment import load
from icl_loop.terminal.console import this_command

SAMPLE = Path(__file__).parent.parent / "transcripts" / "sample"
EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.toml"))
(QUICKSTART,) = (path for path in EXPERIMENTS if path.stem == "quickstart")


def test_sample_prints_what_a_model_is_shown(icl_loop: Command, mnist: str) -> None:
    """`sample` prints exactly the encoded text and a newline."""
    assert mnist
    prefix = Path(os.environ["ICL_LOOP_DATA"], "mnist", "train-first100")
    done = icl_loop("sample", f"idx:{prefix}", "--index", 4, "--encoding", "article")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("]]\n")
    text = done.stdout[:-1]
    assert len(text) == 1560
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "c3fb932b1dee4f76e2c3534e3ce0d703e0333473fd5d94ec1266aacc2d41dc86"


def test_sample_of_a_table_and_of_a_text(icl_loop: Command, tmp_path: Path) -> None:
    """By default, `sample` encodes table rows and texts in the encoding made for them."""
    done = icl_loop("sample", "iris", "--index", 3)
    assert done == icl_loop("sample", "iris", "--index", 3, "--encoding", "table")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sepal length (cm): 4.6\nsepal width (cm): 3.1\n")
    file = tmp_path / "sayings.csv"
    file.write_text('text,label\n"one,\ntwo",a\nthree,b\n')
    assert icl_loop("sample", f"csv:{file}").stdout == "one,\ntwo\n"
    assert icl_loop("sample", f"csv:{file}?text=text&label=label").stdout == "one,\ntwo\n"


def test_sample_prints_a_conversation(icl_loop: Command, tmp_path: Path) -> None:
    """`sample` prints the request after some turns, as an endpoint would be sent it."""
    whole = icl_loop("sample", "quickstart", "--arm", "label", "--turns", 4).stdout
    roles = re.findall(r"^\[(\w+)\]$", whole, re.MULTILINE)
    assert roles == ["system", "user", *["assistant", "user"] * 4]
    experiment = load("quickstart")
    task = next(each for each in experiment.sessions() if each.arm == "label").task
    assert whole.startswith(f"[system]\n{task.system.text}\n\n[user]\n{task.question(0).text}\n")
    assert whole.endswith(f"{task.question(4).text}\n")
    assert whole.count("The label is") == 4
    shorter = icl_loop("sample", "quickstart", "--arm", "label").stdout
    assert whole.startswith(shorter)
    file = tmp_path / "conversation.txt"
    done = icl_loop("sample", "iris", "--turns", 2, "--set", "feedback.kind=label", "-o", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert file.read_text().count("The label is") == 2


@pytest.mark.parametrize("arm", ["feedback", "yoked", "none", "stateless"])
def test_conversations_of_arms(icl_loop: Command, arm: str) -> None:
    """Each arm's conversation shows what the arm is told; no model is asked, whatever its name."""
    address = "model.base_url=http://127.0.0.1:9/v1"
    done = icl_loop("sample", "quickstart", "--arm", arm, "--set", "model.name=m", "--set", address)
    assert done.returncode == 0
    told = len(re.findall(r"^(Correct|Incorrect)\.$", done.stdout, re.MULTILINE))
    assert told == {"feedback": 3, "yoked": 3, "none": 0, "stateless": 0}[arm]
    assert done.stdout.count("[assistant]") == 3 * (arm != "stateless")


def test_sample_writes_a_file(icl_loop: Command, tmp_path: Path) -> None:
    """`sample -o` writes the file that a model would see; an unwritable path is bad input."""
    file = tmp_path / "digit.png"
    assert (
        icl_loop("sample", "digits", "--encoding", "png", "--size", 9, "-o", file).returncode == 0
    )
    with Image.open(file) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (9, 9))
    assert icl_loop("sample", "digits", "-o", tmp_path / "digit.txt").stdout == ""
    assert len((tmp_path / "digit.txt").read_text().splitlines()) == 20
    done = icl_loop("sample", "digits", "--encoding", "png", "-o", tmp_path)
    assert done.returncode == 2
    assert "cannot be written: Is a directory" in done.stderr


def test_run_then_everything_else(icl_loop: Command, tmp_path: Path) -> None:
    """A run prints results and paths; its transcripts can be verified, analysed and plotted."""
    small = ["--streams", 2, "--turns", 12, "--max-tokens", 1]
    run = icl_loop("run", QUICKSTART, "--out", tmp_path, *small)
    assert run.returncode == 0, run.stderr
    assert "the budget has no effect" in run.stderr
    assert all(word in run.stdout for word in ("early", "late", "stateless", "10 sessions"))
    folder = tmp_path / "quickstart"
    assert str(folder) in run.stdout
    assert "turns" in run.stderr
    assert "\x1b" not in run.stdout + run.stderr

    verified = icl_loop("replay", "--verify", folder)
    assert verified.returncode == 0
    assert verified.stdout.count("12 turns replay") == 10

    report = json.loads(icl_loop("analyze", "--json", folder).stdout)
    arms = {arm["arm"]: arm for arm in report["arms"]}
    assert arms.keys() == {"label", "feedback", "yoked", "none", "stateless"}
    assert all(arm["sessions"] == 2 and arm["turns"] == 24 for arm in arms.values())

    file = tmp_path / "curve.svg"
    assert icl_loop("plot", folder, "-o", file).returncode == 0
    assert file.stat().st_size > 10_000


def test_analyze_concludes(icl_loop: Command, tmp_path: Path) -> None:
    """`analyze` ends with the verdict on the given contrast, the same as in its JSON."""
    small = ["--streams", 6, "--turns", 8, "--set", "task.size=4"]
    assert icl_loop("run", QUICKSTART, "--out", tmp_path, *small).returncode == 0
    arguments = ["analyze", tmp_path / "quickstart", "--primary", "label,stateless"]
    report = json.loads(icl_loop(*arguments, "--json").stdout)
    assert report["primary"]["arms"] == ["label", "stateless"]
    assert (report["primary"]["k"], len(report["ladder"])) == (6, 4)
    assert report["primary"]["verdict"] in ("improved", "learned", "invalid", "no evidence")
    assert len(report["secondary"]) == 3
    done = icl_loop(*arguments)
    assert done.returncode == 0
    assert done.stdout.endswith(report["sentence"] + "\n")
    headings = ("Primary contrast", "Exploratory contrasts", "Simpler explanations", "Answers")
    assert all(heading in done.stdout for heading in headings)
    assert all(f"note: {warning}" in done.stdout for warning in report["warnings"])


def test_replay_shows_every_turn(icl_loop: Command) -> None:
    """`replay` prints each turn, or those selected by `--from` and `--errors`."""
    done = icl_loop("replay", SAMPLE / "label-0.jsonl")
    assert done.returncode == 0
    assert done.stdout.count("  told: ") == 25
    assert "turn 24: answered" in done.stdout
    assert "24 turns shown" in done.stdout
    assert "▄" in done.stdout
    later = icl_loop("replay", SAMPLE / "label-0.jsonl", "--from", 20)
    assert later.stdout.count("  told: ") == 5
    wrong = icl_loop("replay", SAMPLE, "--session", "label-0", "--from", 20, "--errors", "--text")
    assert wrong.stdout.count(": wrong\n") == wrong.stdout.count("Image:") == 3
    assert ": right\n" not in wrong.stdout


def test_what_if_compares_policies(icl_loop: Command, tmp_path: Path) -> None:
    """`what-if` prints a row per arm and policy, as a table or JSON, and draws a chart."""
    policies = ["--policy", "last(3)", "--policy", "only_correct | block"]
    done = icl_loop("what-if", SAMPLE, *policies, "-o", tmp_path / "what-if.svg")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("last(n=3)") == done.stdout.count("only_correct | block") == 5
    assert (tmp_path / "what-if.svg").stat().st_size > 10_000
    report = json.loads(icl_loop("what-if", SAMPLE / "label-0.jsonl", *policies, "--json").stdout)
    played, last, _ = report["policy_summaries"]
    assert [row["played"] for row in report["policy_summaries"]] == [True, False, False]
    assert last["largest"] < played["largest"]


def test_verify_names_the_first_turn_that_differs(icl_loop: Command, tmp_path: Path) -> None:
    """`replay --verify` exits with 1 for an edited transcript and names file, turn and field."""
    text = without_checksum((SAMPLE / "label-0.jsonl").read_text())
    lines = text.splitlines(keepends=True)
    lines[8] = (
        lines[8]
        .replace('"correct":false', '"correct":true')
        .replace('"outcome":"ok"', '"outcome":"refusal"')
    )
    assert "".join(lines) != text
    edited = tmp_path / "edited.jsonl"
    edited.write_text("".join(lines))
    done = icl_loop("replay", "--verify", tmp_path)
    assert done.returncode == 1
    assert "edited.jsonl: content: turn 7: outcome is 'refusal'" in done.stdout
    assert "sessions that do not replay: 1 of 1 (1 content)" in done.stderr


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_is_planned(
    icl_loop: Command, request: pytest.FixtureRequest, tmp_path: Path, path: Path
) -> None:
    """`plan` prints the usage of each arm and one verdict, and needs no API key."""
    text = path.read_text()
    if "mnist" in text:
        request.getfixturevalue("mnist")
    short = tmp_path / "short.toml"
    short.write_text(
        re.sub(r"\bat = .*", "at = [0, 4]", text.replace("swap_at = 100", "swap_at = 2"))
    )
    done = icl_loop("plan", short, "--streams", 2, "--turns", 4, "--no-advice")
    assert done.returncode == 0
    progress = ("checking: ", "planning: ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(progress)] == []
    assert all(word in done.stdout for word in ("requests", "tokens in", "total"))
    assert done.stdout.count("cannot show learning") == 1
    assert all(arm in done.stdout for arm in load(short).arms)


def test_a_run_in_json(icl_loop: Command, tmp_path: Path) -> None:
    """`run --json` prints the outcome, and what `analyze --json` prints; `--quiet` shows no progress."""
    small = ["--streams", 2, "--turns", 4, "--out", tmp_path, "--json", "--quiet"]
    done = icl_loop("run", QUICKSTART, *small)
    outcome = json.loads(done.stdout)
    assert (done.returncode, done.stderr, outcome["complete"]) == (0, "", True)
    analysed = json.loads(icl_loop("analyze", outcome["transcripts"], "--json").stdout)
    for results in (outcome["results"], analysed):  # a run has the arms in the order of its file
        for key in ("arms", "secondary", "warnings"):
            results[key].sort(key=lambda each: json.dumps(each, sort_keys=True))
    assert outcome["results"] == analysed
    nowhere = ["--set", "model.name=m", "--set", "model.base_url=http://127.0.0.1:9/v1"]
    limits = ["--set", "limits.allowance_s=0.1", "--set", "name=nowhere"]
    stopped = icl_loop("run", QUICKSTART, *small[:-1], *nowhere, *limits)
    outcome = json.loads(stopped.stdout)
    assert (stopped.returncode, outcome["complete"], outcome["results"]) == (1, False, None)
    assert len(outcome["stopped"]) == 10
    assert "Resume with" in stopped.stderr


def test_a_line_for_every_turn(icl_loop: Command, tmp_path: Path) -> None:
    """`run --verbose` prints a line for every turn that it plays, and none for turns saved before."""
    play = ("run", QUICKSTART, "--streams", 2, "--turns", 4, "--out", tmp_path, "--verbose")
    lines = [line for line in icl_loop(*play).stderr.splitlines() if " turn " in line]
    assert len(lines) == 5 * 2 * 4
    assert all(f"label-0, turn {turn}: answered" in "\n".join(lines) for turn in range(4))
    whole = tmp_path / "quickstart" / "label-0.jsonl"
    whole.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:3]))
    lines = [line for line in icl_loop(*play).stderr.splitlines() if " turn " in line]
    assert [line.split(":")[0] for line in lines] == ["label-0, turn 2", "label-0, turn 3"]
    assert icl_loop(*play, "--quiet").returncode == 2


def test_a_plan_in_json_is_of_numbers(icl_loop: Command) -> None:
    """`plan --json` has the unrounded numbers of every arm."""
    small = ["--streams", 2, "--turns", 4, "--no-advice"]
    report = json.loads(icl_loop("plan", QUICKSTART, *small, "--json").stdout)
    assert [arm["arm"] for arm in report["arms"]] == list(load(QUICKSTART).arms)
    assert all(arm["cost"]["requests"] == 8 for arm in report["arms"])


def _model(name: str, param: str) -> list[str]:
    return ["--set", f"model.name={name}", "--set", f"model.params.{param}"]


BAD_INPUT: dict[str, tuple[list[object], list[str]]] = {
    "an unknown experiment": (["run", "nowhere.toml"], ["nowhere.toml"]),
    "an unknown key": (["run", QUICKSTART, "--set", "turn=3"], ["turn", "'turns'"]),
    "an unknown value": (
        ["run", QUICKSTART, "--set", "task.encoding=gridd"],
        ["task.encoding", "'gridd'", "'grid'"],
    ),
    "an effect of nothing": (
        ["plan", QUICKSTART, "--set", "analysis.effect=0"],
        ["analysis.effect", "0"],
    ),
    "a plan without data": (
        ["plan", QUICKSTART, "--set", "task.dataset=folder:nowhere"],
        ["nowhere"],
    ),
    "no streams": (["run", QUICKSTART, "--streams", 0], ["streams", "0"]),
    "an unknown data set": (["sample", "digit"], ["'digit'", "'digits'"]),
    "a conversation of an unknown arm": (
        ["sample", "quickstart", "--arm", "yokd"],
        ["'yokd'", "'yoked'"],
    ),
    "a sample of an experiment": (["sample", "quickstart", "--index", 1], ["--index", "--set"]),
    "an index too large": (["sample", "digits", "--index", 1797], ["1796", "1797"]),
    "an unknown encoding": (["sample", "digits", "--encoding", "art"], ["'art'"]),
    "an encoding that does not fit": (
        ["sample", "wine", "--encoding", "grid"],
        ["'grid'", "wine/0 is a table", "use one of table"],
    ),
    "a run that does not fit": (
        ["run", QUICKSTART, "--set", "task.dataset=iris"],
        ["'grid' is for a picture", "is a table", "use one of table"],
    ),
    "a missing transcript": (["replay", "nothing.jsonl"], ["nothing.jsonl"]),
    "many transcripts": (["replay", SAMPLE], ["10 sessions", "--session: feedback-0, "]),
    "an unknown session": (["replay", SAMPLE, "--session", "lable-0"], ["'lable-0'", "'label-0'"]),
    "steps without a terminal": (["replay", SAMPLE / "label-0.jsonl", "--step"], ["--step"]),
    "a turn too late": (["replay", SAMPLE / "label-0.jsonl", "--from", 99], ["99", "24"]),
    "a policy that asks": (["what-if", SAMPLE, "--policy", "notes"], ["notes", "needs the model"]),
    "an unknown policy": (["what-if", SAMPLE, "--policy", "lats(3)"], ["'lats'", "'last'"]),
    "an unknown learner": (
        ["what-if", SAMPLE, "--policy", "last", "--baseline", "nearest"],
        ["'nearest'", "reference/nearest"],
    ),
    "a report that is no page": (["report", SAMPLE, "-o", "x.pdf"], ["x.pdf", ".html"]),
    "an arm without a key": (["run", QUICKSTART, "--set", "arms.none=3"], ["arms.none=3", "key"]),
    "no transcript": (["analyze", QUICKSTART], ["quickstart.toml"]),
    "an unknown arm": (["analyze", SAMPLE, "--primary", "feedback,nne"], ["'nne'", "'none'"]),
    "half a contrast": (["analyze", SAMPLE, "--primary", "feedback"], ["--primary", "'feedback'"]),
    "an unknown format": (["plot", SAMPLE, "-o", "x.gif"], ["x.gif", ".png"]),
    "an unknown arm to plot": (
        ["plot", SAMPLE, "--arms", "none,fedback"],
        ["--arms", "'feedback'"],
    ),
    "an unknown command": (["rum", QUICKSTART], ["rum"]),
    "two transcripts": (
        ["replay", SAMPLE / "label-0.jsonl", SAMPLE / "label-1.jsonl"],
        ["the paths contain 2 sessions", "--session: label-0, label-1"],
    ),
    "too many streams": (["run", QUICKSTART, "--streams", 3_000_000], ["--streams = 3000000"]),
    "a short branch": (
        ["branch", SAMPLE / "label-0.jsonl", "--at", 20, "--turns", 10],
        ["--turns 10", "--at 20"],
    ),
    "a branch with an unknown model": (
        ["branch", SAMPLE / "label-0.jsonl", "--at", 5, "--model", "reference/nearst"],
        ["--model", "'reference/nearest'"],
    ),
    "a branch with a late probe": (
        ["branch", SAMPLE / "label-0.jsonl", "--at", 5, "--turns", 9, "--set", "probes.at=[12]"],
        ["--turns 9, probes.at = 12"],
    ),
    "an answer rule without a value": (
        ["rescore", SAMPLE, "--set", "answers.labels"],
        ["answers.KEY=VALUE", "'answers.labels'"],
    ),
    "names that are not a list": (
        ["rescore", SAMPLE, "--set", "answers.labels.7=seven"],
        ["answers.labels.7 = 'seven': must be a list", '["seven"'],
    ),
    "names of no label": (
        ["rescore", SAMPLE, "--set", 'answers.labels.x=["ex"]'],
        ["answers.labels", "'ex'", "'x'"],
    ),
    "a parameter out of range": (
        ["run", QUICKSTART, *_model("simulated/refuser", "rate=3")],
        ["arm 'label', model.params", "rate", "0 to 1", "got 3"],
    ),
    "a parameter that is not a number": (
        ["run", QUICKSTART, *_model("simulated/scheduled-accuracy", "turns=many")],
        ["turns must be a whole number", "'many'"],
    ),
    "an answer that is no label": (
        ["plan", QUICKSTART, *_model("simulated/constant", "label=seven")],
        ["model.params.label = 'seven'", "choose one of 0, 1"],
    ),
    "a window without room for the reply": (
        ["run", QUICKSTART, "--set", "model.context_window=1024"],
        ["model.context_window = 1024", "context.reserve", "1024", "at least 1354"],
    ),
    "a window without room for the question": (
        ["run", QUICKSTART, "--set", "model.context_window=1100"],
        ["model.context_window = 1100", "330", "1024", "1354", "context.reserve to at most 770"],
    ),
    **{
        f"{option} of {str(value)[:20]}": (
            ["run", QUICKSTART, f"{option}={value}"],
            [option, words],
        )
        for option in ("--max-usd", "--ray-wait")
        for value, words in (
            *(("nan", "greater than or equal to 0"), ("-inf", "greater than or equal to 0")),
            *(("inf", "1,000,000,000,000,000"), ("1e999", "1,000,000,000,000,000")),
            *(("1e16", "1,000,000,000,000,000"), ("-1", "greater than or equal to 0")),
        )
    },
    **{
        f"{option} of {str(value)[:20]}": (["run", QUICKSTART, f"{option}={value}"], [option])
        for option in ("--max-tokens", "--concurrency", "--streams", "--turns", "--repeats")
        for value in (10**16, 10**400, -1)
    },
    "no key": (["run", QUICKSTART, "--set", "model.name=some-model"], ["OPENAI_API_KEY"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_error(
    icl_loop: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Bad input exits with 2 and one error that names it; nothing is written."""
    arguments, words = BAD_INPUT[case]
    out = ["--out", tmp_path] if arguments[0] in ("run", "branch", "rescore") else []
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = icl_loop(*arguments, *out)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert "recent accuracy" not in done.stderr  # the progress of turns
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_other_settings_in_a_folder_are_bad_input(icl_loop: Command, tmp_path: Path) -> None:
    """`run` into a folder with other settings exits with 2 and names the key and both values."""
    small = ["run", QUICKSTART, "--out", tmp_path, "--streams", 2, "--turns", 3]
    assert icl_loop(*small).returncode == 0
    done = icl_loop(*small, "--set", "task.size=14")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert all(word in done.stderr for word in ("task.size", "20", "14"))


def test_an_endpoint_that_refuses_stops_short(icl_loop: Command, tmp_path: Path) -> None:
    """A run that an endpoint rejects exits with 1 and prints the reasons and how to resume."""
    with serving([error(404, "no such model")]) as endpoint:
        done = icl_loop(
            *["run", QUICKSTART, "--out", tmp_path, "--streams", 2, "--turns", 3],
            *["--set", "model.name=tiny", "--set", f"model.base_url={endpoint.base_url}"],
        )
    assert done.returncode == 1
    assert all(word in done.stderr for word in ("no such model", "feedback-0", "icl-loop run"))


@pytest.mark.parametrize("budget", [["--max-tokens", "10"], ["--max-tokens=9000"]])
def test_a_run_over_budget_names_a_command_that_resumes_it(
    icl_loop: Command, tmp_path: Path, budget: list[str]
) -> None:
    """A run stopped by its budget prints the same command with a budget for further turns."""
    with serving([completion("Answer: 1")]) as endpoint:
        done = icl_loop(
            *["run", QUICKSTART, "--out", tmp_path, "--streams", 2, *budget],
            *["--set", "model.name=tiny", "--set", f"model.base_url={endpoint.base_url}"],
        )
        assert done.returncode == 1
        played = frame([tmp_path]).height if budget != ["--max-tokens", "10"] else 0
        _, found, command = done.stderr.partition("Resume with a higher budget: icl-loop ")
        assert found
        icl_loop(*shlex.split(command))
        assert frame([tmp_path]).height > played


def test_the_command_is_repeated_with_other_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the values of the options named change, however they were written."""
    command = ["icl-loop", "run", "a b.toml", "--max-usd=1", "--max-tokens", "10", "--turns", "10"]
    monkeypatch.setattr(sys, "argv", command)
    assert this_command() == shlex.join(command)
    again = this_command({"--max-usd": "2.00", "--max-tokens": "30"})
    assert again == "icl-loop run 'a b.toml' --max-usd=2.00 --max-tokens 30 --turns 10"


def only_error(done: Done) -> str:
    """Return the error in the only line that a command printed."""
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_an_unusable_folder_is_rejected_before_anything_else(
    icl_loop: Command, tmp_path: Path, below: str
) -> None:
    """A folder that cannot be made is the only thing that a run prints, before it asks an endpoint."""
    file = tmp_path / "file"
    file.touch()
    nowhere = ["--set", "model.name=m", "--set", "model.base_url=http://127.0.0.1:9/v1"]
    done = icl_loop("run", QUICKSTART, "--out", file / below, *nowhere)
    assert only_error(done) == f"--out {file / below}: {file} is not a folder"


def test_errors_of_a_run_name_file_and_key(
    icl_loop: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing data set or API key is reported with file and key, before any progress."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    reserved = ["model.name=m", "model.base_url=http://127.0.0.1:9/v1", "model.params.stream=true"]
    for given, place in (
        (reserved, "arm '[^']+', model.params.stream "),
        (["task.dataset=csv:none.csv"], "arm '[^']+', task.dataset = 'csv:none.csv': none.csv "),
        (["model.name=m", "model.api_key_env=NO_SUCH_KEY"], "model.api_key_env: .* NO_SUCH_KEY "),
    ):
        changes = [word for each in given for word in ("--set", each)]
        error = only_error(icl_loop("run", QUICKSTART, "--out", tmp_path, *changes))
        assert re.match(f"{re.escape(str(QUICKSTART))}, {place}", error)


@pytest.mark.parametrize(
    "command", [["plot"], ["report"], ["what-if", "--policy", "last(5)"]], ids=lambda each: each[0]
)
def test_a_missing_output_folder_is_bad_input(
    icl_loop: Command, tmp_path: Path, command: list[str]
) -> None:
    """An output file in a missing folder is rejected before any transcript is read."""
    name, *rest = command
    done = icl_loop(name, tmp_path / "no-transcripts", *rest, "-o", tmp_path / "no" / "f.html")
    assert done.returncode == 2
    assert "f.html cannot be written: there is no folder" in done.stderr


def test_a_folder_as_output_file_is_bad_input(tmp_path: Path) -> None:
    """An output file that is a folder is bad input."""
    with pytest.raises(InputError, match="cannot be written: it is a folder"):
        check_writable(tmp_path)


def test_an_interrupted_run_names_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose turns were dropped exits with 1 and names its folder and how to resume."""
    with pytest.raises(Exit) as stopped:
        report_result(tmp_path, None)
    assert stopped.value.exit_code == 1
    printed = capsys.readouterr()
    assert f"transcripts: {tmp_path}\n" in printed.out
    assert "Resume with: icl-loop" in printed.err


def test_only_curves_can_be_compared(icl_loop: Command, tmp_path: Path) -> None:
    """`--compare` is rejected for charts without curves."""
    done = icl_loop("plot", tmp_path, "--compare", "--figure", "tokens", "-o", tmp_path / "f.svg")
    assert done.returncode == 2
    assert "--figure curves only, not tokens" in done.stderr


def test_the_console_script_is_installed(tmp_path: Path) -> None:
    """The installed script runs in any folder and reports bad input without a traceback."""
    program = Path(sys.executable).with_name("icl-loop")
    done = subprocess.run(
        [program, "sample", "digit"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"did you mean 'digits'?" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", ["", "run", "plan", "replay", "what-if", "analyze", "plot", "report", "sample"]
)
def test_every_command_has_help(icl_loop: Command, command: str) -> None:
    """Every command has a help page."""
    done = icl_loop(*[command] if command else [], "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
