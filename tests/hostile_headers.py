"""Hostile headers of transcripts: addresses, environment variables and settings of other kinds.

For any mutant, every command must work or raise an `IclLoopError`, and no branch may send a variable
that its user did not choose.
"""

import asyncio
import json
import random
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from yarl import URL

from fuzzing import ODD_VALUES, Kind
from icl_loop.analysis import frame, probes, sessions
from icl_loop.context.policy_parser import context_policy
from icl_loop.core.errors import IclLoopError, InputError, ModelError
from icl_loop.core.messages import user
from icl_loop.experiment import parse
from icl_loop.experiment.experiment_file import parse_with
from icl_loop.models.openai import OpenAIModel
from icl_loop.replay.branching import branches
from icl_loop.replay.policy_summary import request_contents
from icl_loop.replay.rescoring import rescore
from icl_loop.replay.verification import verify
from icl_loop.replay.what_if import as_played, shown_under
from icl_loop.runner.run import Run
from icl_loop.transcripts import read
from icl_loop.transcripts.checksum import without_checksum

HEADER_NAMES = ("recorded address", "recorded settings", "address")
SECRETS = tuple(
    f"{owner}_{what}"
    for owner in ("AWS", "GITHUB", "HF", "DATABASE", "TEAM")
    for what in ("SECRET_ACCESS_KEY", "TOKEN", "PASSWORD", "URL")
)
"""Twenty environment variables that files and replies have no reason to name."""
USUAL = {"api.openai.com": "OPENAI_API_KEY", "openrouter.ai": "OPENROUTER_API_KEY"}
ADDRESSES = (
    *(None, "https://api.openai.com/v1", "https://openrouter.ai/api/v1", "http://openrouter.ai/v1"),
    *("https://models.example/v1", "http://127.0.0.1:9/v1", "http://localhost:9", "http://[::1]:9"),
    *(
        "https://openrouter.ai.models.example/",
        "https://openrouter.ai:8443",
        "https://a@openrouter.ai",
    ),
    *(
        "https://openrouter.ai:443/v1",
        "HTTPS://OPENROUTER.AI/api",
        "https://openrouter.ai\\@a.example",
    ),
    *(
        "https://api.openai.com.",
        "https://api\u3002openai.com",
        "https://a.example/?x=openrouter.ai",
    ),
    *("https://a.example/$(id);`id`", "https://a.example/'\"", "ftp://openrouter.ai", "", "\0", 5),
)
"""Addresses, some of which look like those of a provider."""
PIECES = (
    *(
        b":",
        b":0",
        b":70000",
        b":-1",
        b":x",
        b":\xd9\xa1",
        b"@",
        b"me:key@",
        b"[",
        b"]",
        b"[::1]",
        b"%00",
    ),
    *(
        b"\\",
        b" ",
        b"\t",
        b"\r\n",
        b"\0",
        b"\x7f",
        b"\x1b[31m",
        b"#",
        b"?",
        b"?key=1",
        b"//",
        b"/../",
    ),
    *(
        b"..",
        b".",
        b"-",
        b"_",
        b"%",
        b"%zz",
        b"xn--",
        b"\xe3\x80\x82",
        b"\xc3\xbc",
        b"\xe2\x80\xae",
    ),
    *(b"a" * 300, b"1.2.3", b"999.1.1.1", b"0x7f.1", b"ftp:", b"file:", b"javascript:", b"\xff"),
    *(b"[::ffff:127.0.0.1%25eth0]", b"[v1.x]", b"http:", b"https://"),
)


def kinds(folder: Path) -> list[Kind]:
    """Return the kinds; their transcript is played into `folder`."""
    table = {"size": 4, "encoding": "binary"}
    made = parse({"name": "headers", "turns": 4, "streams": 1, "task": table})
    (path,) = asyncio.run(Run(made, folder).play()).paths
    seed = b"".join(without_checksum(line) for line in path.read_bytes().splitlines(keepends=True))
    valid = (b"http://127.0.0.1:8000/v1", b"https://[::1]:9/v1", b"http://b\xc3\xbccher.example/v1")
    more = (b"https://a_b.example./v1?api-version=1", b"http://xn--bcher-kva.example:1")
    return [
        Kind("recorded address", ".jsonl", [seed], (), _branch, _other_address),
        Kind("recorded settings", ".jsonl", [seed], (), _use, _other_setting),
        Kind("address", ".txt", [*valid, *more], PIECES, _ask),
    ]


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a transcript without checksums whose header was changed."""
    first, rest = data.split(b"\n", 1)
    header = json.loads(without_checksum(first))
    change(header)
    return json.dumps(header).encode() + b"\n" + rest


# ---- recorded addresses --------------------------------------------------------------------


def _other_address(data: bytes, dice: random.Random) -> bytes:
    """Return a transcript of a model with some address, variables and headers."""
    names = (*SECRETS, *USUAL.values(), "HOME", "", "a b", 5)
    model: dict[str, object] = {"base_url": dice.choice(ADDRESSES)}
    if dice.random() < 0.7:
        model["api_key_env"] = dice.choice(names)
    if dice.random() < 0.4:
        headers = ("X-Team", "Authorization", "X Y", "a.b", "a=b", "Host", "")
        model["headers_env"] = {
            dice.choice(headers): dice.choice(names) for _ in range(dice.randint(1, 3))
        }
    if dice.random() < 0.2:
        model["headers"] = {
            dice.choice(("Host", "X-Title", "X-Key")): dice.choice(("a", "a\nb: c"))
        }
    return with_header(
        data, lambda header: header["settings"]["model"].update(name="tiny", **model)
    )


def _branch(path: Path) -> None:
    """Branch a transcript; no variable is used unasked but the usual one of the provider."""
    try:
        (session,) = branches([path], 2).sessions()
    except InputError as error:
        _, asks, arguments = str(error).rpartition("allow it with: ")
        if asks:
            _confirm(path, shlex.split(arguments)[1::2])
        raise
    model = session.settings.model
    assert not model.headers_env
    if model.api_key_env is not None:
        address = URL(model.base_url or "https://api.openai.com")
        assert (address.scheme, address.port) == ("https", 443)
        assert USUAL.get(address.host or "") == model.api_key_env


def _confirm(path: Path, arguments: Sequence[str]) -> None:
    """Branch with the arguments of an error, which must confirm all that the transcript names."""
    (session,) = branches([path], 2, arguments).sessions()
    used, recorded = session.settings.model, read(path).header.settings["model"]
    assert used.base_url == recorded["base_url"]
    assert used.api_key_env == recorded.get("api_key_env")
    assert used.headers_env == recorded.get("headers_env", {})


# ---- recorded settings of other kinds ------------------------------------------------------


def _other_setting(data: bytes, dice: random.Random) -> bytes:
    """Return a transcript with a table or setting deleted or replaced by another value."""

    def change(header: dict[str, Any]) -> None:
        table = header["settings"]
        key = dice.choice(list(table))
        if dice.random() < 0.7:
            table, key = table[key], dice.choice(list(table[key]))
        if dice.random() < 0.3:
            del table[key]
        else:
            table[key] = dice.choice((*ODD_VALUES, "yoked", "label", "all", 3.5, [1]))

    return with_header(data, change)


def _use(path: Path) -> None:
    """Use a transcript in every way; raise the first error after all."""
    out, errors = path.with_suffix(".rescored"), list[IclLoopError]()
    uses: Sequence[Callable[[], object]] = (
        lambda: branches([path], 2, ["feedback.kind=label"]),
        lambda: branches([path], 2, model="simulated/chance"),
        lambda: rescore(path, ["answers.rule=last"], out),
        lambda: asyncio.run(verify(read(path))),
        lambda: asyncio.run(request_contents(shown_under(read(path), context_policy("last(2)")))),
        lambda: asyncio.run(request_contents(as_played(read(path)))),
        *(lambda each=each: each([path]) for each in (frame, sessions, probes)),
    )
    for use in uses:
        try:
            use()
        except IclLoopError as error:
            errors.append(error)
            if isinstance(error, InputError) and "Error" in str(error):
                raise AssertionError(str(error)) from error
    shutil.rmtree(out, ignore_errors=True)
    if errors:
        raise errors[0]


# ---- addresses -----------------------------------------------------------------------------


def _ask(path: Path) -> None:
    """Ask a model at the address in a file; the proxy in the environment refuses connections."""
    address = path.read_bytes().decode("utf-8", "replace")
    with suppress(InputError):  # a value that is not TOML is a string
        parse_with([f"model.base_url={json.dumps(address)}"], {"name": "e"})
    parse({"name": "e", "model": {"name": "tiny", "base_url": address}})
    parts, used = urlsplit(address), URL(address)
    assert (parts.scheme.lower(), parts.port or used.port) == (used.scheme, used.port)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        with suppress(ModelError):
            asyncio.run(_asked(address))


async def _asked(address: str) -> None:
    async with aclosing(OpenAIModel("tiny", base_url=address, timeout_s=1)) as model:
        await model.complete([user("which?")])
