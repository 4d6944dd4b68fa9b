"""Prompt sets: every sentence a model reads, and the parser that recovers its meaning.

Each set is a TOML file; docs/prompts.md describes its keys.
"""

from icl_loop.tasks.prompts.feedback_phrases import (
    Announcements,
    FeedbackPhrases,
    Form,
    ParsedFeedback,
)
from icl_loop.tasks.prompts.loading import DEFAULT, open_prompt_set, shipped
from icl_loop.tasks.prompts.prompt_set import ParsedSystem, PromptSet
from icl_loop.tasks.prompts.side_requests import NotePrompts

__all__ = [
    "DEFAULT",
    "Announcements",
    "FeedbackPhrases",
    "Form",
    "NotePrompts",
    "ParsedFeedback",
    "ParsedSystem",
    "PromptSet",
    "open_prompt_set",
    "shipped",
]
