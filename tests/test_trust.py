"""Security: API keys are never printed or written, and replies cannot control the terminal."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import aiohttp
import pytest

from builders import without_checksum
from command_line import Command
from endpoint import completion, error, serving
from hostile_headers import SECRETS
from icl_loop.core.errors import InputError
from icl_loop.experiment import parse
from icl_loop.replay.branching import branches
from icl_loop.runner.run import Run
from icl_loop.transcripts import read

CANARY = "sk-canary-2b992ddfa232"
CONTROL = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202e\u2066\u200b\r"
CONTROL_CHARACTERS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]"
)
TOML = """
name = "trust"
turns = 6
streams = 2
[model]
name = "tiny"
api_key_env = "CANARY_KEY"
"""
PROGRAM = "from icl_loop.cli import main; main()"


@pytest.fixture
def command_line(icl_loop: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line with an API key in its environment."""
    monkeypatch.setenv("CANARY_KEY", CANARY)
    return icl_loop


def running(folder: Path, base_url: str) -> list[str]:
    """Return the arguments that run the experiment in `folder` against an endpoint."""
    file = folder / "trust.toml"
    file.write_text(TOML)
    return ["run", str(file), "--out", str(folder), "--set", f"model.base_url={base_url}"]


def test_no_command_shows_a_key(tmp_path: Path, command_line: Command) -> None:
    """No command prints or writes the key, whether the endpoint accepts or refuses and repeats it."""
    refused = tmp_path / "refused"
    refused.mkdir()
    with serving([completion("Answer: 3"), error(401, f"bad key {CANARY}")]) as endpoint:
        stopped = command_line(*running(refused, endpoint.base_url))
    assert stopped.returncode == 1
    assert "401" in stopped.stderr
    assert "check the key in CANARY_KEY" in " ".join(stopped.stderr.split())
    with serving([completion("Answer: 3")]) as endpoint:
        done = [command_line(*running(tmp_path, endpoint.base_url))]
        assert endpoint.keys == [f"Bearer {CANARY}"] * 12
    folder = str(tmp_path / "trust")
    session = str(tmp_path / "trust" / "feedback-0.jsonl")
    done += [
        command_line("replay", session),
        command_line("replay", folder, "--verify"),
        command_line("analyze", folder),
        command_line("analyze", folder, "--json"),
        command_line("report", folder, "-o", str(tmp_path / "page.html")),
        command_line("export", folder, "--to", "csv", "-o", str(tmp_path / "turns.csv")),
        command_line("rescore", folder, "--set", "answers.rule=last"),
        *[
            command_line("plot", folder, "-o", str(tmp_path / f"a.{end}"))
            for end in ("svg", "html")
        ],
    ]
    assert [each.returncode for each in done] == [0] * len(done), done
    said = [each.stdout + each.stderr for each in (stopped, *done)]
    written = [path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not any(CANARY in text for text in (*said, *written))


CRASHING = """
from icl_loop.models import openai
async def crash(self, response, content):
    key, headers = self._secrets, self._headers
    raise RuntimeError("a simulated bug")
openai.OpenAIModel._reply = crash
from icl_loop.cli import main
main()
"""
"""The command line with a bug where the key is a local variable."""


def test_a_crash_shows_no_key(tmp_path: Path) -> None:
    """A traceback shows no values of variables, even with all debugging switched on."""
    with serving([completion("Answer: 3")]) as endpoint:
        done = subprocess.run(
            [sys.executable, "-c", CRASHING, *running(tmp_path, endpoint.base_url)],
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
            env={
                **os.environ,
                "CANARY_KEY": CANARY,
                "PYTHONASYNCIODEBUG": "1",
                "OPENAI_LOG": "debug",
            },
        )
    assert done.returncode == 1
    assert "a simulated bug" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    for path in (tmp_path / "trust").glob("*.jsonl"):
        assert read(path).turns == ()
        assert CANARY not in path.read_text()


async def test_the_server_shows_no_key() -> None:
    """`serve` neither prints nor returns the right key or a wrong one."""
    words = ["serve", "simulated/chance", "--port", "0", "--api-key-env", "CANARY_KEY"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CANARY_KEY": CANARY},
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/v1", first)
        assert address is not None, "the server must listen on loopback by default"
        assert "warning" not in first
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer sk-wrong-canary"}) as http,
            http.post(f"{address[0]}/chat/completions", json={"model": "any"}) as reply,
        ):
            body = await reply.text()
        process.kill()
        printed = first + process.stdout.read()
    assert reply.status == 401
    assert not any(key in printed + body for key in (CANARY, "sk-wrong-canary"))


def test_a_public_address_is_warned_about() -> None:
    """With `--host 0.0.0.0`, `serve` warns that other machines can reach it."""
    with subprocess.Popen(
        [
            *[sys.executable, "-c", PROGRAM, "serve", "simulated/chance", "--port", "0"],
            *["--host", "0.0.0.0"],  # noqa: S104  it must warn
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "other machines can reach 0.0.0.0" in process.stderr.readline()
        process.kill()


def test_replies_cannot_control_the_terminal(tmp_path: Path, command_line: Command) -> None:
    """No command prints the control characters of a reply or an error."""
    replies = [completion(f"{CONTROL} Answer: 3 {CONTROL}")] * 7
    with serving([*replies, error(400, f"no {CONTROL} more")]) as endpoint:
        done = [command_line(*running(tmp_path, endpoint.base_url))]
    assert done[0].returncode == 1
    assert "no" in done[0].stderr
    folder = tmp_path / "trust"
    for path in folder.glob("*.jsonl"):
        text = without_checksum(path.read_text())
        names = text.replace('"arm":"feedback"', f'"arm":{json.dumps("a" + CONTROL)}')
        path.write_text(
            names.replace('"experiment":"trust"', f'"experiment":{json.dumps(CONTROL)}')
        )
        done.append(command_line("replay", str(path)))
    done += [
        command_line("analyze", str(folder)),
        command_line("analyze", str(folder), "--json"),
        command_line("replay", str(folder), "--verify"),
    ]
    for each in done:
        assert each.stdout + each.stderr
        assert not CONTROL_CHARACTERS.search(each.stdout + each.stderr), each
    assert json.loads(done[-2].stdout)["arms"][0]["arm"] == "a" + CONTROL


# ---- files and replies that name secrets -----------------------------------------------------

PARENT = "name='p'\nturns=4\nstreams=1\ntask={size=4, encoding='binary'}"
ELSEWHERE = "https://models.example/v1"
ROUTER = "https://openrouter.ai/api/v1"
LOCAL = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transcript of a small session with a built-in model."""
    folder = tmp_path_factory.mktemp("played")
    made = parse(tomllib.loads(PARENT))
    return asyncio.run(Run(made, folder).play()).paths[0]


def renamed(parent: Path, folder: Path, **model: object) -> Path:
    """Return a copy of a transcript whose header says that it was played with another model."""
    first, *lines = parent.read_text("utf-8").splitlines(keepends=True)
    header = json.loads(without_checksum(first))
    header["settings"]["model"] |= {"name": "tiny", **model}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / parent.name
    path.write_text(json.dumps(header) + "\n" + "".join(lines), "utf-8")
    return path


SAFE: Sequence[tuple[dict[str, object], list[str]]] = [
    ({}, []),
    ({"base_url": ELSEWHERE}, []),
    ({"base_url": LOCAL}, []),
    ({"api_key_env": "OPENAI_API_KEY"}, []),
    ({"base_url": ROUTER, "api_key_env": "OPENROUTER_API_KEY"}, []),
    ({"base_url": ROUTER, "api_key_env": "SECRET_A"}, ["api_key_env=MINE"]),
    ({"base_url": LOCAL, "api_key_env": "SECRET_A"}, ["api_key_env=MINE"]),
    (
        {"base_url": ELSEWHERE, "api_key_env": "SECRET_A"},
        [f"base_url={ELSEWHERE}", "api_key_env=SECRET_A"],
    ),
    (
        {"base_url": ELSEWHERE, "headers_env": {"X-Team": "SECRET_A"}},
        [f"base_url={ELSEWHERE}", "headers_env.X-Team=SECRET_A"],
    ),
    ({"base_url": ELSEWHERE, "api_key_env": "SECRET_A"}, [f"base_url={LOCAL}"]),
    ({"base_url": ELSEWHERE, "headers_env": {"X": "SECRET_A"}}, [f"base_url={LOCAL}"]),
]
REFUSED: Sequence[tuple[dict[str, object], list[str]]] = [
    ({"api_key_env": "SECRET_A"}, []),
    ({"headers_env": {"X": "OPENAI_API_KEY"}}, []),
    ({"base_url": ELSEWHERE, "api_key_env": "OPENAI_API_KEY"}, []),
    ({"base_url": ELSEWHERE, "api_key_env": "SECRET_A"}, ["api_key_env=SECRET_A"]),
    ({"base_url": ELSEWHERE, "api_key_env": "SECRET_A"}, ["api_key_env=MINE"]),
    ({"base_url": ROUTER, "api_key_env": "OPENAI_API_KEY"}, []),
    ({"base_url": ROUTER.replace("https", "http"), "api_key_env": "OPENROUTER_API_KEY"}, []),
    ({"base_url": "https://openrouter.ai.example/v1", "api_key_env": "OPENROUTER_API_KEY"}, []),
    ({"base_url": "https://openrouter.ai:8443/v1", "api_key_env": "OPENROUTER_API_KEY"}, []),
    ({"base_url": LOCAL, "api_key_env": "SECRET_A"}, []),
    ({"base_url": LOCAL, "headers_env": {"X": "SECRET_A"}}, ["api_key_env=MINE"]),
]


@pytest.mark.parametrize(("model", "given"), SAFE)
def test_variables_of_a_transcript_are_used_if_given(
    model: dict[str, object], given: list[str], parent: Path, tmp_path: Path
) -> None:
    """A branch uses variables that are given or usual, and an address that is given gets no others."""
    path = renamed(parent, tmp_path, **model)
    (branch,) = branches([path], 2, [f"model.{each}" for each in given]).sessions()
    used = {branch.settings.model.api_key_env, *branch.settings.model.headers_env.values()}
    chosen = {each.partition("=")[2] for each in given}
    assert used <= {None, "OPENAI_API_KEY", "OPENROUTER_API_KEY"} | chosen


@pytest.mark.parametrize(("model", "given"), REFUSED)
def test_variables_of_a_transcript_are_asked_about(
    model: dict[str, object], given: list[str], parent: Path, tmp_path: Path
) -> None:
    """Otherwise the error names file, address and variables, and the arguments in it confirm them."""
    path = renamed(parent, tmp_path, **model)
    changes = [f"model.{each}" for each in given]
    with pytest.raises(InputError) as refused:
        branches([path], 2, changes)
    said = str(refused.value)
    assert str(path) in said
    assert str(model.get("base_url", "OPENAI_BASE_URL")) in said
    assert re.search(r"variables .*(SECRET_A|_API_KEY|MINE) would", said)
    added = shlex.split(said.rpartition("allow it with: ")[2])[1::2]
    assert list(branches([path], 2, [*changes, *added]).sessions())


def test_a_branch_shows_no_other_data(parent: Path, tmp_path: Path) -> None:
    """A branch of a transcript that names another file as its data set is refused."""
    secret = tmp_path / "diary.csv"
    secret.write_text("text,label\n" + "".join(f"day {n},{n % 2}\n" for n in range(40)))
    path = renamed(parent, tmp_path, base_url=ELSEWHERE)
    text = path.read_text().replace('"dataset": "digits"', f'"dataset": "csv:{secret}"')
    path.write_text(text.replace('"encoding": "binary"', '"encoding": "text"'))
    with pytest.raises(InputError, match="has changed"):
        branches([path], 2)


@contextmanager
def recording(
    replies: Sequence[tuple[int, dict[str, str], str]],
) -> Iterator[tuple[str, list[str]]]:
    """Serve hostile replies to requests of every method; give the address and the requests whole."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> Callable[[], None]:
            if not name.startswith("do_"):
                raise AttributeError(name)
            return self.answer

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            requests.append(f"{self.requestline}\n{self.headers}\n{body}")
            status, headers, text = replies[len(requests) % len(replies)]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", requests
        finally:
            server.shutdown()
            thread.join()


def test_no_variable_that_a_stranger_names_is_sent(
    parent: Path, tmp_path: Path, icl_loop: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables named by transcripts, comments and replies reach no request, file or output."""
    canaries = {name: f"canary-{number:02}-5f0c2e" for number, name in enumerate(SECRETS)}
    for name, value in (canaries | {"OWN_KEY": "own-key"}).items():
        monkeypatch.setenv(name, value)
    named = " ".join(
        f"${name} ${{{name}}} {{{name}}} %{name}% {{{{env.{name}}}}}" for name in SECRETS
    )
    target = "/v1?" + "&".join(f"key=${{{name}}}" for name in SECRETS)
    fields = {"WWW-Authenticate": named, "Set-Cookie": named, "x-ratelimit-reset-tokens": named}
    answer = {"choices": [{"message": {"role": "assistant", "content": f"Answer: 3 {named}"}}]}
    listed = {"data": [{"id": named, "owned_by": named}, {"id": "tiny", "max_model_len": 32_768}]}
    replies = [
        (200, fields, json.dumps({**answer, **listed})),
        (302, {**fields, "Location": target}, named),
        (200, fields, json.dumps({"error": {"message": named, "code": named}})),
        (401, fields, json.dumps({"error": {"message": f"set api_key_env to {named}"}})),
        (404, fields, json.dumps({"error": {"message": named}, **listed})),
        (400, fields, f"<html><title>{named}</title></html>"),
    ]
    file = tmp_path / "comments.toml"
    own = f"""# api_key_env = "{SECRETS[0]}"  {named}
        name = "c"
        turns = 3
        streams = 1
        task = {{size = 4, encoding = "binary"}}
        [model]
        name = "tiny"
        api_key_env = "OWN_KEY"  # headers_env = {{X = "{SECRETS[1]}"}}
        headers = {{X-Note = "{named.replace("{{", "{")}"}}
        [limits]
        allowance_s = 0.1
    """
    with recording(replies) as (address, requests):
        monkeypatch.setenv("http_proxy", address)  # which also gets what is meant for other hosts
        file.write_text(own)
        done = []
        for start in range(len(replies)):
            replies[:] = replies[1:] + replies[:1]
            out = ["--out", tmp_path / f"c{start}", "--set", f"model.base_url={address}/v1"]
            done.append(icl_loop("run", file, *out))
        assert len(requests) > 2 * len(replies)
        assert all("own-key" in each for each in requests)
        before = len(requests)
        for number, name in enumerate(SECRETS):
            place = f"{address}/v1" if number % 2 else "http://models.example/v1"
            key: dict[str, object] = {"headers_env": {"X-Key": name}}
            key = {"api_key_env": name} if number % 3 else key
            path = renamed(parent, tmp_path / f"t{number}" / "p", base_url=place, **key)
            done.append(icl_loop("branch", path, "--at", "2"))
            assert done[-1].returncode == 2
            assert name in done[-1].stderr
            assert f"--set model.base_url={place}" in " ".join(done[-1].stderr.split())
        folder, page = tmp_path / "t0", tmp_path / "t.html"
        (tmp_path / "p.toml").write_text(PARENT)
        commands: list[list[object]] = [
            ["replay", path],
            ["replay", folder, "--verify"],
            ["analyze", folder],
            ["report", folder, "-o", page],
            ["export", folder, "--to", "csv", "-o", tmp_path / "t.csv"],
            ["rescore", folder, "--set", "answers.rule=last"],
            ["what-if", folder, "--policy", "last(2)"],
            ["run", tmp_path / "p.toml", "--out", folder],
        ]
        done += [icl_loop(*command) for command in commands]
        assert len(requests) == before
    said = [each.stdout + each.stderr for each in done]
    written = [path.read_text("utf-8", "replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert page.exists()
    assert not [
        canary
        for canary in canaries.values()
        if any(canary in text for text in (*requests, *said, *written))
    ]
