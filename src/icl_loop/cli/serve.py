"""The command that serves a model of ours over HTTP."""

import os
from typing import Annotated

import typer

from icl_loop.core.errors import InputError, nearest
from icl_loop.models import BUILT_IN, is_built_in, open_model
from icl_loop.tasks.prompts import open_prompt_set
from icl_loop.terminal.console import complain, out


def serve(
    model: Annotated[
        str, typer.Argument(help=f"One of {', '.join(BUILT_IN)}.")
    ] = "reference/nearest",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    latency: Annotated[float, typer.Option(min=0, help="Seconds before each answer.")] = 0.0,
    fail: Annotated[
        str, typer.Option(help="Faults by rate, such as 429=0.1,500=0.05,reset=0.02,slow=0.01.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Keys answers and faults.")] = 0,
    context_window: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest prompt that is answered.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompt set of the sessions, a name or a file; any shipped one if omitted."
        ),
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable that holds the key to ask for.")
    ] = None,
) -> None:
    """Serve a model of ours as an OpenAI-compatible endpoint, to try the whole path without a key."""
    try:
        from icl_loop import server  # noqa: PLC0415  an optional extra
    except ImportError:
        raise InputError("serving needs the extra [serve]: pip install 'icl-loop[serve]'") from None
    settings = server.ServerSettings(
        latency_s=latency,
        faults=server.parse_faults(fail),
        seed=seed,
        context_window=context_window,
        api_key=_key_to_ask_for(api_key_env),
    )
    if not is_built_in(model):
        raise InputError(
            f"only models of ours are served, not {model!r}: {nearest(model, BUILT_IN)}"
        )
    expected = open_prompt_set(prompts) if prompts else None
    built_in = open_model(model, seed=seed, prompts=expected)
    app = server.build_app({model: built_in}, settings=settings)
    exposed = host not in ("127.0.0.1", "::1", "localhost")
    if exposed:
        complain(f"warning: {host} can be reached by other machines")

    def ready(base_url: str) -> None:
        out.print(f"serving {model} at {base_url}; Ctrl-C ends it", highlight=False, soft_wrap=True)
        out.print(
            f"try: icl-loop run experiments/quickstart.toml --set name=served"
            f" --set model.name={model} --set model.base_url={base_url}",
            highlight=False,
            soft_wrap=True,
        )

    server.serve(app, host, port, expose=exposed, ready=ready)


def _key_to_ask_for(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"the environment variable {variable} holds no key")
    return key
