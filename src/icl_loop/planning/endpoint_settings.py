"""Settings that a trial of an endpoint suggests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from icl_loop.core.records import Outcome
from icl_loop.core.web_addresses import is_loopback
from icl_loop.experiment.settings import AUTO, Settings
from icl_loop.models.prices import cost_of
from icl_loop.runner.trial import Finding, TriedArm

_UNPARSED: tuple[Outcome, ...] = ("unreadable", "out_of_set", "truncated")
_CHOICE_RESERVE = 64
"""Tokens of a reply that consists of an answer line only, with room to spare."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A setting that suits an endpoint better.

    Attributes:
        table: The table of the setting; "" for an option of `run`.
        line: The setting as a line of TOML, or the option.
        reason: Why.
    """

    table: str
    line: str
    reason: str


def suggestions(
    settings: Settings,
    arms: Sequence[TriedArm],
    findings: Sequence[Finding],
    reported_window: int | None = None,
) -> list[Suggestion]:
    """Return what to change in the settings of these arms, which share an endpoint.

    Args:
        settings: Those of the first arm in the experiment file.
        arms: The arms as they were tried.
        findings: What their endpoint does.
        reported_window: The context window that it reports.
    """
    if arms[0].model.is_built_in:
        return []
    found = {each.name: each.found for each in findings}
    return [
        *_window(settings, arms[0].model.window, reported_window),
        *_model(arms, found),
        *_context(arms, found),
        *_run(found),
    ]


def _window(settings: Settings, tried: int, reported: int | None) -> Iterator[Suggestion]:
    window = settings.model.context_window
    if window == AUTO and reported is None:
        yield Suggestion(
            "model",
            f"context_window = {tried}",
            "the endpoint does not report its window; check this number, which is assumed or listed",
        )
    elif isinstance(window, int) and reported is not None and window != reported:
        is_default = "context_window" not in settings.model.model_fields_set
        if window > reported or is_default:
            kind = "the default" if is_default else "the setting"
            yield Suggestion(
                "model",
                f'context_window = "{AUTO}"',
                f"the endpoint reports {reported:,} tokens; {kind} is {window:,}",
            )


def _model(arms: Sequence[TriedArm], found: Mapping[str, str]) -> Iterator[Suggestion]:
    model = arms[0].model
    unparsed, replies = _share(arms)
    if found.get("system role") == "no" and model.system_role:
        yield Suggestion("model", "system_role = false", "system messages do not reach the model")
    constrains = "yes" in (found.get("JSON schema"), found.get("grammar or choice field"))
    if 3 * unparsed >= replies > 0 and model.answer_format != "choice":
        reason = f"{unparsed} of {replies} replies could not be parsed"
        if constrains:
            yield Suggestion("model", 'answer_format = "choice"', reason)
        else:
            yield Suggestion("answers", 'rule = "last"', f"{reason}, and nothing limits replies")
    if cost_of(model.name, model.base_url) is None and not is_loopback(model.base_url or ""):
        yield Suggestion(
            "price",
            "input = 0.0\noutput = 0.0",
            "no price is known for this model: fill in dollars per million tokens",
        )


def _context(arms: Sequence[TriedArm], found: Mapping[str, str]) -> Iterator[Suggestion]:
    settings = arms[0].session.settings
    reserve, window = settings.context.reserve, settings.model.window
    tokens = [turn.reply.usage.completion for arm in arms for turn in arm.turns]
    cut = sum(turn.outcome == "truncated" for arm in arms for turn in arm.turns)
    longest, thinks = max(tokens, default=0), found.get("reasoning") == "yes"
    unparsed, replies = _share(arms)
    if cut and thinks:
        yield Suggestion(
            "context",
            f"reserve = {4 * max(reserve, longest, 256)}",
            f"{cut} of {replies} replies were cut while the model was reasoning",
        )
    elif 3 * unparsed >= replies > 0 and settings.model.answer_format != "choice":
        if not thinks and reserve > _CHOICE_RESERVE:
            yield Suggestion(
                "context",
                f"reserve = {_CHOICE_RESERVE}",
                "a reply limited to the answer line needs no more",
            )
    elif cut:
        yield Suggestion(
            "context", f"reserve = {2 * max(reserve, 64)}", f"{cut} of {replies} replies were cut"
        )
    elif longest and 8 * reserve >= window and 4 * longest <= reserve:
        enough = max(_CHOICE_RESERVE, 1 << (4 * longest - 1).bit_length())
        if enough < reserve:
            yield Suggestion(
                "context",
                f"reserve = {enough}",
                f"the longest reply took {longest} tokens, and {reserve} of {window:,} are kept free",
            )


def _run(found: Mapping[str, str]) -> Iterator[Suggestion]:
    slots = found.get("slots", "unknown")
    if slots != "unknown":
        yield Suggestion(
            "",
            f"--concurrency {slots}",
            "as many sessions as the server has slots keep their prompt caches (the default)",
        )


def _share(arms: Sequence[TriedArm]) -> tuple[int, int]:
    """Return how many replies could not be parsed, and how many there are."""
    outcomes = [turn.outcome for arm in arms for turn in arm.turns]
    return sum(each in _UNPARSED for each in outcomes), len(outcomes)
