"""From the turns of an experiment to its verdicts: a primary contrast for each model, with controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from icl_loop.analysis.answer_problems import quoted
from icl_loop.analysis.arm_roles import CONTENT, Control, Pair, Roles
from icl_loop.analysis.caveats import caveats
from icl_loop.analysis.contrasts import MARGIN, Contrast, adjusted, e_process
from icl_loop.analysis.late_accuracy import FailedGate, LateAccuracy
from icl_loop.core.errors import InputError, TranscriptError, nearest
from icl_loop.transcripts.loading import saved_sessions

Verdict = Literal[
    "learned", "improved", "different", "equivalent", "no evidence", "descriptive only", "invalid"
]


@dataclass(frozen=True, slots=True)
class Secondary:
    """A secondary contrast.

    Attributes:
        contrast: The contrast.
        p_adjusted: Its p-value, adjusted for the number of secondary contrasts of its model.
        exploratory: Whether it was chosen after the turns were played.
    """

    contrast: Contrast
    p_adjusted: float | None
    exploratory: bool = False


@dataclass(frozen=True, slots=True)
class NullQuestion:
    """A simpler explanation to rule out.

    Attributes:
        question: The question.
        contrasts: The contrasts that must all show the first arm to be better.
        missing: Whether an arm that is needed was not played.
        stopped_early: Whether e-values decide, because the run stopped early.
    """

    question: str
    contrasts: tuple[Contrast, ...]
    missing: bool
    stopped_early: bool

    @property
    def holds(self) -> bool | None:
        """Whether the explanation is ruled out; None if not tested."""
        tested = [each for each in self.contrasts if each.p is not None]
        if not all(each.shown(stopped_early=self.stopped_early) for each in tested):
            return False
        return None if self.missing or len(tested) < len(self.contrasts) else True


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The conclusion about one model in an experiment.

    Attributes:
        experiment: Name of the experiment.
        model: Name of the model; None if there is only one, or if the primary contrast compares two.
        primary: The primary contrast; None if none was named or one of its arms has no turns.
        recorded: Whether the primary contrast was recorded before the first request.
        needed: The contrasts of the first arm with its other controls.
        controls: The kinds of controls among the primary contrast and those needed.
        tests_learning: Whether the primary contrast can be about learning from feedback; otherwise it
            is about a difference between two models or designs.
        verdict: The verdict on the primary contrast, or None without one.
        failed_gate: Why the verdict is "invalid", or None.
        reply: The beginning of a reply that shows this, or None.
        late: First and last late turn of the primary contrast, counted from 1.
        evidence: The e-process over the streams of the primary contrast.
        stopped_early: Whether the run stopped because the evidence sufficed. Everything then rests
            on e-values instead of p-values.
        secondary: The other contrasts.
        ladder: Questions about simpler explanations, from the weakest to the strongest.
        warnings: Caveats for the reader.
    """

    experiment: str
    model: str | None
    primary: Contrast | None
    recorded: bool = False
    needed: tuple[Contrast, ...] = ()
    controls: frozenset[Control] = frozenset()
    tests_learning: bool = False
    verdict: Verdict | None = None
    failed_gate: FailedGate | None = None
    reply: str | None = None
    late: tuple[int, int] | None = None
    evidence: tuple[float, ...] = ()
    stopped_early: bool = False
    secondary: tuple[Secondary, ...] = ()
    ladder: tuple[NullQuestion, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name of the experiment and, if it has several models, of the model."""
        return " / ".join(filter(None, (self.experiment, self.model)))


def conclude_each(
    turns: pl.DataFrame,
    primary: Pair | None = None,
    sessions: pl.DataFrame | None = None,
    probed: pl.DataFrame | None = None,
    paths: Sequence[Path] | None = None,
) -> list[Conclusion]:
    """Return the conclusions about every experiment and model in a frame, in order of appearance.

    Args:
        turns: The result of `frame`.
        primary: The arm of interest and the arm it is compared with; None uses the recorded contrast.
            Other models are judged by the arms that differ from these in nothing but the model.
        sessions: The result of `analysis.sessions`, from which the arms' roles are read. Without it,
            nothing is known about the arms but their difference.
        probed: The result of `probes`, if any were asked with flipped verdicts.
        paths: The paths given to `frame`, from which a reply is quoted if the verdict is "invalid"; by
            default the transcripts that `turns` names, if they exist.

    Raises:
        InputError: An arm of `primary` does not exist.
        TranscriptError: Sessions of an arm differ in their settings.
    """
    alone = turns["experiment"].n_unique() == 1  # avoids a copy
    parts = [turns] if alone else turns.partition_by("experiment", maintain_order=True)
    return [
        _with_reply(each, paths)
        for part in parts
        for each in _by_model(part, primary, sessions, probed)
    ]


def conclude(
    turns: pl.DataFrame,
    primary: Pair | None = None,
    sessions: pl.DataFrame | None = None,
    probed: pl.DataFrame | None = None,
    paths: Sequence[Path] | None = None,
) -> Conclusion:
    """Return the conclusion about one experiment; with several models, that of the primary contrast.

    See `conclude_each`.

    Raises:
        InputError: The turns belong to several experiments, or an arm of `primary` does not exist.
    """
    names = turns["experiment"].unique().to_list()
    if len(names) != 1:
        raise InputError(f"expected the turns of one experiment, got {len(names)}")
    found = conclude_each(turns, primary, sessions, probed, paths)
    named = (each for each in found if each.primary and each.primary.arms == primary)
    recorded = (each for each in found if each.recorded)
    return next(named, None) or next(recorded, None) or found[0]


def _by_model(
    turns: pl.DataFrame,
    named: Pair | None,
    sessions: pl.DataFrame | None,
    probed: pl.DataFrame | None,
) -> Iterator[Conclusion]:
    """Yield the conclusion about each model in one experiment."""
    arms = turns["arm"].unique(maintain_order=True).to_list()
    _refuse_unknown(named, arms)
    _refuse_lengths(turns)
    roles = Roles.of(turns["experiment"][0], arms, sessions)
    mine = None if probed is None else probed.filter(experiment=turns["experiment"][0])
    late = LateAccuracy(turns, roles.margin or MARGIN, mine)
    pair, models = named or roles.primary, roles.models()
    home = next((own for own in models.values() if pair and set(pair) <= set(own)), None)
    if home is None or len(models) == 1:
        yield _conclusion(turns, late, roles, named)
        return
    for model, own in models.items():
        part, its_roles = turns.filter(pl.col("arm").is_in(own)), roles.of_model(own, home)
        counterpart = named and roles.translated(named, own)
        if counterpart or its_roles.primary:
            yield replace(_conclusion(part, late, its_roles, counterpart), model=model)
        else:
            yield Conclusion(turns["experiment"][0], model, None)


def _conclusion(
    turns: pl.DataFrame, late: LateAccuracy, roles: Roles, named: Pair | None
) -> Conclusion:
    """Return the conclusion from the arms of one model, or from a contrast between two."""
    arms = turns["arm"].unique(maintain_order=True).to_list()
    pair = named or roles.primary
    chosen = pair if pair and set(pair) <= set(arms) else None
    primary = late.contrast(*chosen) if chosen else None
    warnings = tuple(caveats(turns, roles, named=named, contrast=primary))
    ladder = tuple(_ladder(late, roles, chosen and chosen[0]))
    if chosen is None or primary is None:
        return Conclusion(turns["experiment"][0], None, None, ladder=ladder, warnings=warnings)
    tests_learning = roles.tests_learning(*chosen)
    needed, controls = _controls(late, roles, chosen) if tests_learning else ((), frozenset())
    concluded = Conclusion(
        experiment=turns["experiment"][0],
        model=None,
        primary=primary,
        recorded=chosen == roles.primary,
        needed=needed,
        controls=controls,
        tests_learning=tests_learning,
        failed_gate=late.failed_gate([primary, *needed]) if primary.p is not None else None,
        late=late.window(*chosen),
        evidence=tuple(e_process(primary.differences).tolist()),
        stopped_early=roles.stopped_early,
        secondary=_secondary(late, roles, chosen, arms),
        ladder=ladder,
        warnings=(*warnings, *_shortened(late, chosen)),
    )
    return replace(concluded, verdict=_verdict(primary, concluded))


def _verdict(primary: Contrast, found: Conclusion) -> Verdict:
    """Return the verdict on a primary contrast.

    All contrasts needed must show the first arm to be better: by p, or by e-value if the run stopped
    early. Because all of them must hold, their p-values need no adjustment (intersection-union test,
    Berger 1982).
    """
    early = found.stopped_early
    if primary.p is None:
        return "descriptive only"
    if found.failed_gate is not None:
        return "invalid"
    compared = (primary, *found.needed) if found.tests_learning else (primary,)
    is_shown = all(each.shown(stopped_early=early) for each in compared)
    if found.tests_learning and is_shown and "none" in found.controls:
        return "learned" if found.controls & CONTENT else "improved"
    if not found.tests_learning and (is_shown if early else primary.significant):
        return "different"
    if primary.equivalent and not primary.significant and not early:
        return "equivalent"
    return "no evidence"


def _controls(
    late: LateAccuracy, roles: Roles, chosen: Pair
) -> tuple[tuple[Contrast, ...], frozenset[Control]]:
    """Return the contrasts that the verdict needs beside the primary one, and the kinds of controls."""
    first, second = chosen
    needed = [late.contrast(first, arm) for arm in roles.controls(first) if arm != second]
    flipped = late.contrast_of_probes(first)
    kinds = roles.control_kinds(first, flipped=flipped is not None)
    return (*needed, flipped) if flipped else tuple(needed), kinds


def _secondary(
    late: LateAccuracy, roles: Roles, chosen: Pair, arms: Sequence[str]
) -> tuple[Secondary, ...]:
    """Return the recorded secondary contrasts or, without any, those of the design itself.

    These compare the first arm with all others of its model, and arms with renamed labels with their
    own `none`.
    """
    first = chosen[0]
    pairs = [pair for pair in roles.secondary if set(pair) <= set(arms)]
    exploratory = not pairs and chosen != roles.primary
    if not pairs:
        renamed = [(arm, roles.control(arm, "none")) for arm in roles.renamed(first)]
        pairs = [(first, arm) for arm in arms if roles.have_one_model(first, arm)]
        pairs += [(arm, none) for arm, none in renamed if none]
    others = dict.fromkeys(pair for pair in pairs if pair not in ((first, first), chosen))
    contrasts = [late.contrast(*pair) for pair in others]
    ps = adjusted(contrasts)
    return tuple(Secondary(each, p, exploratory) for each, p in zip(contrasts, ps, strict=True))


def _ladder(late: LateAccuracy, roles: Roles, first: str | None) -> Iterator[NullQuestion]:
    """Yield the questions from the weakest to the strongest, including those not tested."""

    def ask(question: str, *contrasts: Contrast | None) -> NullQuestion:
        played = tuple(each for each in contrasts if each)
        missing = len(played) < len(contrasts)
        return NullQuestion(question, played, missing, roles.stopped_early)

    def against(arm: str | None, other: str | None) -> Contrast | None:
        return late.contrast(arm, other) if arm and other else None

    twin = first and roles.stateless_twin(first)
    yield ask("context matters?", against(first, twin))
    yoked = against(first, first and roles.control(first, "yoked"))
    flipped = late.contrast_of_probes(first) if first else None
    content = [yoked, flipped] if yoked and flipped else [yoked or flipped]
    yield ask("content of feedback matters?", *content)
    frequent = late.contrast_with_most_frequent(first) if first else None
    yield ask("more than label frequencies?", frequent, against(first, twin))
    renamed = roles.renamed(first)
    for arm in renamed:
        none, own_yoked = (against(arm, roles.control(arm, kind)) for kind in ("none", "yoked"))
        chance = late.contrast_with_chance(arm)
        required = [none, own_yoked, chance] if own_yoked else [none, chance]
        yield ask("more than prior knowledge?", *required)
    if not renamed:
        yield ask("more than prior knowledge?", None)


def _shortened(late: LateAccuracy, chosen: Pair) -> Iterator[str]:
    """Yield which turns are late if sessions filled their context window early."""
    if late.is_shortened(*chosen):
        start, stop = late.window(*chosen)
        yield (
            f"sessions filled their context window before their last turn: late accuracy of"
            f" {chosen[0]!r} and {chosen[1]!r} is that of turns {start + 1} to {stop}, the second half"
            " of the shortest session compared; other contrasts go by their own shortest session"
        )


def _refuse_unknown(primary: Pair | None, arms: Sequence[str]) -> None:
    for arm in primary or ():
        if arm not in arms:
            raise InputError(f"there is no arm {arm!r}: {nearest(arm, arms)}")
    if primary and primary[0] == primary[1]:
        raise InputError(f"a contrast needs two different arms, got {primary[0]!r} twice")


def _refuse_lengths(turns: pl.DataFrame) -> None:
    """Raise TranscriptError if the sessions of an arm differ in their planned number of turns."""
    planned = turns.group_by("arm", maintain_order=True).agg(pl.col("turns").unique().sort())
    for arm, lengths in planned.iter_rows():
        if len(lengths) > 1:
            raise TranscriptError(
                f"sessions of arm {arm!r} were planned with {lengths[0]} and {lengths[-1]} turns;"
                " analyse them separately"
            )


def _with_reply(found: Conclusion, paths: Sequence[Path] | None) -> Conclusion:
    """Return a conclusion with the beginning of a reply that shows why its verdict is "invalid"."""
    gate = found.failed_gate
    if gate is None:
        return found
    transcript = Path(gate.path)
    if paths is None and not transcript.is_file():
        return found
    saved = saved_sessions(paths or [transcript])[gate.path].read()
    reply = saved.turns[gate.turn].reply
    return replace(found, reply=quoted(reply.text or reply.reasoning_text or ""))
