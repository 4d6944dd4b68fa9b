"""Tests of `icl-loop try`, against scripted endpoints and the built-in server."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from command_line import Command
from endpoint import Response, completion, error, serving
from icl_loop import server
from icl_loop.models import open_model

FILE = """
name = "tried"
turns = 20
streams = 2
[model]
name = "tiny"
context_window = 4096
[task]
dataset = "iris"
encoding = "table"
[[arms]]
name = "yoked"
feedback = {kind = "yoked", donor = "feedback"}
[[arms]]
name = "feedback"
"""
USAGE = {"prompt_tokens": 500, "completion_tokens": 5}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an experiment file in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    Path("tried.toml").write_text(FILE)
    return Path("tried.toml")


def findings(printed: str) -> dict[str, str]:
    """Return the properties of the first endpoint in JSON output."""
    [endpoint, *_] = json.loads(printed)["endpoints"]
    return {each["name"]: each["found"] for each in endpoint["findings"]}


def suggested(printed: str) -> list[str]:
    """Return the lines suggested for the first endpoint in JSON output."""
    [endpoint, *_] = json.loads(printed)["endpoints"]
    return [each["line"] for each in endpoint["suggestions"]]


def obedient(request: Mapping[str, Any]) -> Response:
    """Reply to tests as a server with JSON schemas and caps does, and to turns with prose."""
    if "grammar" in request or "structured_outputs" in request or "guided_choice" in request:
        return error(400, "Unknown parameter: " + ", ".join(request))
    if "max_completion_tokens" in request:
        return error(400, "Unknown parameter: max_completion_tokens")
    if "logprobs" in request:
        return error(400, "logprobs is not supported by this model")
    if "response_format" in request:
        schema = request["response_format"]["json_schema"]["schema"]
        label = schema["properties"]["answer"]["enum"][0]
        return completion(json.dumps({"answer": label}), usage=USAGE)
    if request["max_tokens"] < 10:
        return completion("once upon a", usage=USAGE, finish_reason="length")
    return completion("I think\x1b[2J that flower is pretty.", usage=USAGE)


def test_everything_is_shown_and_nothing_saved(file: Path, icl_loop: Command) -> None:
    """Requests and replies are printed whole, with control characters replaced; no file is written."""
    with serving([obedient], ["tiny"]) as endpoint:
        done = icl_loop("try", file, "--set", f"model.base_url={endpoint.base_url}", "--turns", 2)
    assert done.returncode == 0
    answered = [each for each in endpoint.requests if "max_tokens" in each]
    free = [each for each in answered if "response_format" not in each]  # that of the turns
    sent = [each for each in free if "Record" in str(each["messages"])]
    assert len(sent) == 2 * 2 + 1  # two turns of each arm, and the longest request repeated
    for message in sent[1]["messages"]:
        assert message["content"].replace("\x1b", "\ufffd") in done.stdout
    assert "that flower is pretty" in done.stdout
    assert "\x1b" not in done.stdout
    assert list(Path().iterdir()) == [file]


def test_findings_suggestions_and_cost(file: Path, icl_loop: Command) -> None:
    """What is refused is found out; unparsed replies suggest `choice`; cost follows measured usage."""
    settings = ("--set", "price.input=1", "--set", "price.output=10")
    with serving([obedient], [{"id": "tiny", "max_model_len": 4096}]) as endpoint:
        done = icl_loop(
            "try", file, "--json", *settings, "--set", f"model.base_url={endpoint.base_url}"
        )
    assert done.returncode == 0
    found = findings(done.stdout)
    assert found["context window"] == "4,096"
    assert found["reply cap field"] == "max_tokens"
    assert found["JSON schema"] == "yes"
    assert found["grammar or choice field"] == "no"
    assert found["log-probabilities"] == "no"
    assert found["usage"] == "yes"
    assert found["reasoning"] == "no"
    assert 'answer_format = "choice"' in suggested(done.stdout)
    printed = json.loads(done.stdout)
    arms = {each["arm"]: each for each in printed["arms"]}
    told = {arm: [turn["told"] for turn in each["turns"]] for arm, each in arms.items()}
    assert told["yoked"] == told["feedback"]
    assert {turn["outcome"] for turn in arms["feedback"]["turns"]} == {"unreadable"}
    run = printed["full_run"]
    assert run["cost"]["requests"] == 2 * 2 * 20
    assert run["cost"]["completion"] == 5 * run["cost"]["requests"]
    assert run["cost"]["usd"] == pytest.approx(
        (run["cost"]["prompt"] + 10 * run["cost"]["completion"]) / 1e6
    )
    counted = [turn["counted"] for turn in arms["feedback"]["turns"]]
    ratios = {each["arm"]: each["ratio"] for each in run["arms"]}
    assert ratios["feedback"] == pytest.approx(3 * 500 / sum(counted))


def test_log_probabilities_with_choice(file: Path, icl_loop: Command) -> None:
    """Log-probabilities are looked for with `choice`, on a question that the labels fit."""

    def reply(request: Mapping[str, Any]) -> Response:
        if "grammar" not in request:
            return completion("Which flower?", usage=USAGE)
        fits = "Record" in str(request["messages"])
        tokens = ["Answer: ", re.findall(r'Answer: ([^"]+)"', request["grammar"])[0]]
        likely = [{"token": tokens[1] if fits else "a", "logprob": -0.5}]
        listed = [
            {"token": tokens[0], "logprob": 0.0, "top_logprobs": []},
            {"token": tokens[1], "logprob": -0.5 if fits else -1e999, "top_logprobs": likely},
        ]
        found: dict[str, Any] = {"logprobs": {"content": listed}} if "logprobs" in request else {}
        return completion("".join(tokens), usage=USAGE, **found)

    with serving([reply], ["tiny"]) as endpoint:
        done = icl_loop("try", file, "--json", "--set", f"model.base_url={endpoint.base_url}")
    assert findings(done.stdout)["grammar or choice field"] == "yes"
    assert findings(done.stdout)["log-probabilities"] == "with choice: yes"


def test_refused_system_role(file: Path, icl_loop: Command) -> None:
    """If no turn can be played because of the system message, the setting is suggested."""

    def reply(request: Mapping[str, Any]) -> Response:
        if request["messages"][0]["role"] == "system":
            return error(400, "System role not supported")
        return obedient(request)

    with serving([reply], ["tiny"]) as endpoint:
        done = icl_loop("try", file, "--json", "--set", f"model.base_url={endpoint.base_url}")
    assert done.returncode == 1
    assert findings(done.stdout)["system role"] == "no"
    assert "system_role = false" in suggested(done.stdout)
    assert json.loads(done.stdout)["full_run"] is None


def test_budget(file: Path, icl_loop: Command) -> None:
    """A trial keeps to its budget and says what it found before."""

    def reply(request: Mapping[str, Any]) -> Response:
        words = sum(len(each["content"].split()) for each in request["messages"])
        return completion("No.", usage={"prompt_tokens": 2 * words, "completion_tokens": 2})

    with serving([reply], ["tiny"]) as endpoint:
        done = icl_loop(
            "try", file, "--json", "--max-tokens", 700, "--set", "context.reserve=100",
            "--set", f"model.base_url={endpoint.base_url}",
        )  # fmt: skip
    assert done.returncode == 1
    spent = json.loads(done.stdout)["spent"]
    assert 0 < spent["prompt"] + spent["completion"] <= 700
    assert "700" in json.loads(done.stdout)["arms"][0]["stopped"]


def test_window_larger_than_the_endpoints(file: Path, icl_loop: Command) -> None:
    """A window that a run would refuse is replaced by the endpoint's, with a suggestion."""
    with serving([obedient], [{"id": "tiny", "max_model_len": 3000}]) as endpoint:
        done = icl_loop("try", file, "--json", "--set", f"model.base_url={endpoint.base_url}")
    assert done.returncode == 0
    assert 'context_window = "auto"' in suggested(done.stdout)
    assert done.stderr.count("note:") == 1


def test_wrong_input_and_unreachable_endpoint(file: Path, icl_loop: Command) -> None:
    """Wrong input exits with 2 and the nearest choice, an unreachable endpoint with 1, in words."""
    wrong = icl_loop("try", file, "--set", "model.answer_format=choise")
    assert wrong.returncode == 2
    assert "choice" in wrong.stderr
    gone = icl_loop("try", file, "--set", "model.base_url=http://127.0.0.1:9/v1")
    assert gone.returncode == 1
    assert "127.0.0.1:9" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_built_in_model(file: Path, icl_loop: Command) -> None:
    """Built-in models are tried too, and cost nothing."""
    done = icl_loop("try", file, "--json", "--set", "model.name=reference/nearest")
    assert done.returncode == 0
    printed = json.loads(done.stdout)
    assert [len(each["turns"]) for each in printed["arms"]] == [3, 3]
    assert suggested(done.stdout) == []
    assert printed["full_run"]["seconds"] == 0


def test_built_in_server(file: Path, icl_loop: Command) -> None:
    """What `icl-loop serve` does is found out, and replies of a session are scored."""
    models = {"tiny": open_model("reference/nearest")}
    app = server.build_app(models, settings=server.ServerSettings())
    with server.serving(app) as url:
        done = icl_loop("try", file, "--json", "--set", f"model.base_url={url}")
    assert done.returncode == 0
    found = findings(done.stdout)
    assert found["server"] == "icl-loop"
    assert found["reply cap field"] == "max_completion_tokens"
    assert found["system role"] == "yes"
    assert found["usage"] == "yes"
