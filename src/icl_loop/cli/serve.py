"""`icl-loop serve`: serve a built-in model over HTTP."""

import os
from typing import Annotated

from typer import Argument, Option

from icl_loop.core.errors import InputError, nearest
from icl_loop.models import BUILT_IN, is_built_in, open_model
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.terminal.console import print_error, print_text


def serve(
    model: Annotated[str, Argument(help=f"One of {', '.join(BUILT_IN)}.")] = "reference/nearest",
    port: Annotated[
        int, Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")
    ] = 8321,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    latency: Annotated[float, Option(min=0, help="Seconds before each response.")] = 0.0,
    fail: Annotated[
        str,
        Option(
            metavar="FAULT=RATE,…",
            help="Faults to inject, such as 429=0.1,slow=0.01. Faults: 429, 500, 503, reset,"
            " garbage, slow, empty, truncated.",
        ),
    ] = "",
    seed: Annotated[int, Option(min=0, help="Seed of the answers and faults.")] = 0,
    context_window: Annotated[
        int | None, Option(min=1, help="Longest prompt to accept, in tokens.")
    ] = None,
    prompts: Annotated[
        str | None,
        Option(help="Prompt set of the sessions, a name or a file; any shipped one if omitted."),
    ] = None,
    api_key_env: Annotated[
        str | None, Option(metavar="NAME", help="Environment variable with the API key to require.")
    ] = None,
) -> None:
    """Serve a built-in model as an OpenAI-compatible endpoint, to test without an API key."""
    try:
        from icl_loop import server  # noqa: PLC0415  an optional extra
    except ImportError:
        raise InputError("serving needs the extra [serve]: pip install 'icl-loop[serve]'") from None
    api_key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env is not None and not api_key:
        raise InputError(f"the environment variable {api_key_env} is empty or not set")
    settings = server.ServerSettings(
        latency_s=latency,
        faults=server.parse_faults(fail),
        seed=seed,
        context_window=context_window,
        api_key=api_key,
    )
    if not is_built_in(model):
        raise InputError(f"{model!r} is not a built-in model: {nearest(model, BUILT_IN)}")
    prompt_set = open_prompt_set(prompts) if prompts else None
    opened = open_model(model, seed=seed, prompts=prompt_set)
    app = server.build_app({model: opened}, settings=settings)
    exposed = host not in ("127.0.0.1", "::1", "localhost")
    if exposed:
        print_error(f"warning: other machines can reach {host}")

    def ready(base_url: str) -> None:
        print_text(f"serving {model} at {base_url}; stop with Ctrl-C")
        print_text(
            f"try: icl-loop run quickstart --set name=served"
            f" --set model.name={model} --set model.base_url={base_url}"
        )

    server.serve(app, host, port, expose=exposed, ready=ready)
