"""The sentences of requests beside the turns: for notes, and for the choice of the next sample."""

from collections.abc import Sequence
from typing import Annotated

from icl_loop.core.messages import JOIN
from icl_loop.tasks.prompts.feedback_phrases import PromptTable
from icl_loop.tasks.prompts.templates import LabelTemplate, Sentence, fill, match, with_placeholders


class NotePrompts(PromptTable):
    """How the model is asked for notes, and how later requests show them."""

    asked: Annotated[str, with_placeholders("tokens")]
    shown: Annotated[str, with_placeholders("notes")]

    def ask(self, tokens: int) -> str:
        """Return the request for notes of at most `tokens` tokens."""
        return fill(self.asked, tokens=str(tokens))

    def show(self, notes: str) -> str:
        """Return the text that stands for the turns before the notes."""
        return fill(self.shown, notes=notes)


class ChoicePrompts(PromptTable):
    """How the model is asked which of several samples it wants to be asked about next."""

    asked: Annotated[str, with_placeholders("samples", "answer")]
    sample: Annotated[str, with_placeholders("number", "sample")]
    answer: LabelTemplate
    placeholder: Sentence

    def ask(self, samples: Sequence[str]) -> str:
        """Return the request to choose one of these encoded samples."""
        shown = (
            fill(self.sample, number=str(number), sample=sample)
            for number, sample in enumerate(samples, 1)
        )
        return fill(
            self.asked, samples=JOIN.join(shown), answer=fill(self.answer, label=self.placeholder)
        )

    def reply(self, number: int) -> str:
        """Return the final line that chooses a sample, counted from 1."""
        return fill(self.answer, label=str(number))

    def parse(self, text: str) -> list[str] | None:
        """Return the encoded samples that a request offers; None if it is no request to choose."""
        asked = fill(self.asked, answer=fill(self.answer, label=self.placeholder))
        if (values := match(asked, text)) is None:
            return None
        rest, samples = JOIN + values["samples"], list[str]()
        while rest:
            start = JOIN + fill(self.sample, number=str(len(samples) + 1), sample="")
            following = JOIN + fill(self.sample, number=str(len(samples) + 2), sample="")
            if not rest.startswith(start):
                return None
            shown, found, rest = rest.removeprefix(start).partition(following)
            rest = found + rest
            samples.append(shown)
        return samples
