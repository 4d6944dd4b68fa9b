"""What is found out about an endpoint before a run."""

import json
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from endpoint import completion, serving
from icl_loop.models.openai import OpenAIModel
from icl_loop.models.openai.endpoint import Endpoint, discover

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
            assert await model.discover() == expected


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
