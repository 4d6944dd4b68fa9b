"""What is found out about an endpoint before a run."""

import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from builders import experiment
from endpoint import Endpoint as Served
from endpoint import completion, serving
from icl_loop.core.errors import InputError, SettingsMismatch, StoppedShort
from icl_loop.experiment import Experiment
from icl_loop.models import CallableModel
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.openai.endpoint import Endpoint, discover
from icl_loop.models.prices import listed_window
from icl_loop.runner.discovery import planned
from icl_loop.runner.run import Run
from icl_loop.transcripts import read_header

LLAMA_LIST = {"id": "tiny", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "n_ctx_train": 131_072}}
LLAMA_PROPS = {
    "default_generation_settings": {"n_ctx": 4096},
    "total_slots": 4,
    "chat_template_caps": {"supports_system_role": False},
}
SERVERS: Mapping[str, tuple[list[Any], dict[str, Any], Endpoint]] = {
    "llama.cpp": (
        [LLAMA_LIST],
        {"/props": LLAMA_PROPS},
        Endpoint("llama.cpp", ("tiny",), 4096, slots=4, system_role=False),
    ),
    "llama.cpp without props": ([LLAMA_LIST], {}, Endpoint("llama.cpp", ("tiny",), 4096)),
    "llama.cpp with another name": (
        [{**LLAMA_LIST, "id": "model.gguf"}],
        {"/props": LLAMA_PROPS},
        Endpoint("llama.cpp", ("model.gguf",), 4096, slots=4, system_role=False),
    ),
    "vLLM": (
        [
            {"id": "large", "owned_by": "vllm", "max_model_len": 9},
            {"id": "tiny", "owned_by": "vllm", "max_model_len": 8192},
        ],
        {},
        Endpoint("vLLM", ("large", "tiny"), 8192),
    ),
    "vLLM with an adapter": (
        [
            {"id": "large", "owned_by": "vllm", "max_model_len": 8192, "parent": None},
            {"id": "tiny", "owned_by": "vllm", "max_model_len": None, "parent": "large"},
        ],
        {},
        Endpoint("vLLM", ("large", "tiny"), 8192),
    ),
    "OpenRouter": (
        [{"id": "tiny", "context_length": 9000, "top_provider": {"context_length": 8000}}],
        {},
        Endpoint("unknown", ("tiny",), 8000),
    ),
    "Groq": (
        [{"id": "tiny", "owned_by": "Meta", "context_window": 131_072}],
        {},
        Endpoint("unknown", ("tiny",), 131_072),
    ),
    "LM Studio": (
        [{"id": "tiny", "owned_by": "organization_owner"}],
        {
            "/api/v0/models": {
                "data": [{"id": "tiny", "max_context_length": 9, "loaded_context_length": 8}]
            }
        },
        Endpoint("LM Studio", ("tiny",), 8),
    ),
    "Ollama": (
        [{"id": "tiny:latest", "owned_by": "library"}],
        {"/api/ps": {"models": [{"name": "tiny:latest", "context_length": 4096}]}},
        Endpoint("Ollama", ("tiny:latest",), 4096),
    ),
    "Ollama without the model": (
        [{"id": "tiny:latest", "owned_by": "library"}],
        {"/api/ps": {"models": []}},
        Endpoint("Ollama", ("tiny:latest",)),
    ),
    "nonsense": (
        [{"id": "tiny", "max_model_len": -1, "context_length": "many", "meta": [1]}],
        {},
        Endpoint("unknown", ("tiny",)),
    ),
}


@pytest.mark.parametrize("server", SERVERS)
async def test_servers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind, the models, the window and the slots of a server are read where it reports them."""
    models, pages, expected = SERVERS[server]
    monkeypatch.setenv("TINY_KEY", "sk-tiny")
    with serving([completion("3")], models, pages) as endpoint:
        model = OpenAIModel("tiny", base_url=endpoint.base_url, api_key_env="TINY_KEY")
        async with aclosing(model):
            assert await model.discover() == replace(expected, address=endpoint.base_url)


async def test_a_bare_list() -> None:
    """A list of models need not be in an object, as with Together."""
    listed = [{"id": "tiny", "context_length": 8192}, "odd"]
    with serving([completion("3")], pages={"/v1/models": listed}) as endpoint:
        async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
            assert (await model.discover()).context_window == 8192


async def test_failures() -> None:
    """An endpoint that cannot be asked is unknown, with the reason."""
    with serving([completion("3")], pages={"/v1/models": None}) as endpoint:
        async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
            found = await model.discover()
    assert found.kind == "unknown"
    assert found.failure is not None
    assert "404" in found.failure
    async with aclosing(OpenAIModel("tiny", base_url=endpoint.base_url)) as model:
        assert (await model.discover()).failure == "cannot be reached"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "data", "meta", "owned_by", "aliases", "n_ctx", "max_model_len"]
            ),
            each,
        )
    ),
)


@given(st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()))
async def test_any_answer(content: bytes) -> None:
    """No answer of a server can make discovery fail."""

    async def get(_: URL) -> tuple[int, bytes]:
        return 200, content

    assert isinstance(await discover(get, URL("http://127.0.0.1:9/v1"), "tiny"), Endpoint)


# ---- runs ----


def served_experiment(endpoint: Served, streams: int = 2, **model: Any) -> Experiment:  # noqa: ANN401
    """Return a small experiment with a model at the endpoint."""
    settings = {"name": "tiny", "base_url": endpoint.base_url, **model}
    return experiment(turns=2, streams=streams, model=settings)


async def test_an_automatic_window(tmp_path: Path) -> None:
    """The window that the server reports is recorded; later runs need the same to resume."""
    models = [{"id": "tiny", "max_model_len": 4321}]
    with serving([completion("Answer: 3")], models) as endpoint:
        chosen = served_experiment(endpoint, context_window="auto")
        result = await Run(chosen, tmp_path).play()
        assert (await Run(chosen, tmp_path).play()).complete
        asked = len(endpoint.requests)
        models[0]["max_model_len"] = 5000
        with pytest.raises(SettingsMismatch, match=r"model\.context_window = 4321.*5000"):
            await Run(chosen, tmp_path).play()
    assert [read_header(path).settings["model"]["context_window"] for path in result.paths] == [
        4321
    ] * 2
    assert asked == len(endpoint.requests) == 4


async def test_a_window_that_is_too_large(tmp_path: Path) -> None:
    """A stated window larger than the server's is refused before anything is written."""
    with serving([completion("3")], [{"id": "tiny", "max_model_len": 4321}]) as endpoint:
        with pytest.raises(InputError, match=r"context_window = 32768.*4321.*'auto'"):
            await Run(served_experiment(endpoint), tmp_path).play()
        assert (
            await Run(served_experiment(endpoint, context_window=4321), tmp_path).play()
        ).complete
        assert len(list(tmp_path.iterdir())) == 1


async def test_a_window_that_cannot_be_found_out(tmp_path: Path) -> None:
    """`auto` needs an answer: the error asks for a number, and says if the server is away."""
    with serving([completion("3")], ["tiny"]) as endpoint:
        chosen = served_experiment(endpoint, context_window="auto")
        with pytest.raises(InputError, match=r"neither .* nor the price list.*set it to a number"):
            await Run(chosen, tmp_path).play()
        guessed, (remark,) = await planned(chosen)
    assert guessed.arms["feedback"].model.context_window == 32_768
    assert "32,768" in remark
    with pytest.raises(StoppedShort, match="cannot be reached"):
        await Run(chosen, tmp_path).play()
    assert not list(tmp_path.iterdir())


def test_listed_windows() -> None:
    """The price list knows the windows of the models of well-known endpoints, and of no others."""
    assert listed_window("gpt-4o-mini", "https://api.openai.com/v1") == 128_000
    assert listed_window("gpt-4o-mini", "http://127.0.0.1:9/v1") is None
    assert listed_window("no-such-model", "https://api.openai.com/v1") is None


async def test_own_models_ask_nothing(tmp_path: Path) -> None:
    """A built-in model, or one of the caller's, has the default window for `auto`."""
    for name, open_model in (
        ("tiny", lambda _: CallableModel(lambda _: "3")),
        ("reference/nearest", None),
    ):
        chosen = experiment(name=name[:4], turns=2, model={"name": name, "context_window": "auto"})
        result = await Run(chosen, tmp_path, open_model=open_model).play()
        recorded = [read_header(path).settings["model"]["context_window"] for path in result.paths]
        assert recorded == [32_768] * 2


async def test_slots(tmp_path: Path) -> None:
    """As many sessions as llama.cpp has slots play at a time, each in a slot of its own."""
    slots = {**LLAMA_PROPS, "default_generation_settings": {"n_ctx": 40_000}, "total_slots": 2}
    answer = replace(completion("Answer: 3"), delay_s=0.01)
    with serving([answer], [LLAMA_LIST], {"/props": slots}) as endpoint:
        run = Run(served_experiment(endpoint, streams=5), tmp_path)
        await run.play()
    assert run.concurrency == 2
    assert len(run.remarks) == 1
    by_session = [request["messages"][1]["content"] for request in endpoint.requests]
    sent = [request["id_slot"] for request in endpoint.requests]
    assert set(sent) == {0, 1}
    for first in set(by_session):
        assert (
            len({slot for each, slot in zip(by_session, sent, strict=True) if each == first}) == 1
        )


async def test_a_given_concurrency(tmp_path: Path) -> None:
    """Slots do not override the concurrency that the user gave; sessions beyond them share."""
    slots = {**LLAMA_PROPS, "default_generation_settings": {"n_ctx": 40_000}, "total_slots": 1}
    answer = replace(completion("Answer: 3"), delay_s=0.05)
    with serving([answer], [LLAMA_LIST], {"/props": slots}) as endpoint:
        run = Run(served_experiment(endpoint, streams=3), tmp_path, concurrency=3)
        await run.play()
    assert run.concurrency == 3
    assert run.remarks == []
    assert [request.get("id_slot") for request in endpoint.requests[:3]].count(0) == 1
