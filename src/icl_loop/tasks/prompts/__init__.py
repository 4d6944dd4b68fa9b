"""Prompt sets: every sentence a model reads, and the parser that recovers its meaning.

Each set is a TOML file; docs/prompts.md describes its keys.
"""

from icl_loop.tasks.prompts.loading import DEFAULT, open_prompt_set, shipped
from icl_loop.tasks.prompts.parsing import ParsedFeedback, ParsedSystem, PromptParser, parser
from icl_loop.tasks.prompts.schema import (
    Announcements,
    FeedbackPhrases,
    NotePrompts,
    PromptSection,
    PromptSet,
)

__all__ = [
    "DEFAULT",
    "Announcements",
    "FeedbackPhrases",
    "NotePrompts",
    "ParsedFeedback",
    "ParsedSystem",
    "PromptParser",
    "PromptSection",
    "PromptSet",
    "open_prompt_set",
    "parser",
    "shipped",
]
