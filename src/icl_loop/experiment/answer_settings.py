"""The settings of how replies are parsed; the text below each key is its entry in the reference."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel

from icl_loop.experiment.validation import STRICT, one_of, validated
from icl_loop.tasks.answers import AnswerRule, AnswerRuleName


class AnswerSettings(BaseModel):
    """`[answers]`: how replies are parsed."""

    model_config = STRICT

    rule: Annotated[AnswerRuleName, one_of(get_args(AnswerRuleName))] = "stated"
    """Which label counts: stated as the answer, strict (form of the last line) or last named."""
    labels: dict[str, list[str]] = {}
    """Further names accepted for each label."""

    def as_rule(self, *, announced: bool = True) -> AnswerRule:
        """Return the rule by which replies are parsed, if the labels are `announced` or not."""
        names = tuple((name, label) for label, names in self.labels.items() for name in names)
        return AnswerRule(self.rule, names, open=not announced)


def recorded_rule(settings: Mapping[str, Any]) -> AnswerRule:
    """Return the rule by which replies of a session with these recorded settings are parsed.

    Raises:
        InputError: They are not valid.
    """
    given = settings.get("answers", {})
    answers = validated(AnswerSettings, given, "recorded settings, answers")
    return answers.as_rule(announced=settings.get("task", {}).get("announce_labels", True))
