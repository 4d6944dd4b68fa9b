"""What the messages of a session say: the feedback on each answer, the sample in each question."""

from dataclasses import dataclass, replace

from icl_loop.context.similarity import Decoded
from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message
from icl_loop.core.records import Turn
from icl_loop.tasks.answers import STATED, AnswerRule, parse_answer
from icl_loop.tasks.feedback import FeedbackPolicy
from icl_loop.tasks.prompts import NotePrompts, ParsedFeedback, PromptSet
from icl_loop.tasks.question_decoding import sample_decoder
from icl_loop.tasks.task import Task

NO_FEEDBACK = ParsedFeedback(correct=None, label=None)
_AT_ONCE = FeedbackPolicy()


@dataclass(frozen=True)
class MessageParser:
    """Reads the messages of one session; `timing` says when its feedback is told."""

    prompts: PromptSet
    encoding: str
    labels: tuple[str, ...]
    timing: FeedbackPolicy = _AT_ONCE
    rule: AnswerRule = STATED

    @classmethod
    def for_task(cls, task: Task) -> "MessageParser":
        """Return the parser of a session's messages."""
        return cls(task.prompts, task.encoding.name, task.labels, task.feedback, task.rule)

    def feedback(self, turn: Turn, told: str) -> ParsedFeedback:
        """Return what the feedback `told` says about `turn`; both fields are None if nothing.

        If it only confirms the answer, the label is that answer.
        """
        ago = self.timing.told_after(turn.index) - turn.index
        heard = self.prompts.parse_feedback(told, self.labels)
        parsed = next((each for each in heard if each.ago == ago), NO_FEEDBACK)
        if parsed.correct and parsed.label is None:
            _, reply, _ = turn.messages
            answer = parse_answer(
                reply.text, self.labels, form=self.prompts.answer, rule=self.rule
            ).answer
            return replace(parsed, label=answer)
        return parsed

    def sample(self, question: Message) -> Decoded | None:
        """Return the image, table row or text that a question shows, or None if it asks about none."""
        return sample_decoder(self.prompts, self.encoding)(question)

    @property
    def note_prompts(self) -> NotePrompts:
        """The prompts that ask for notes and show them.

        Raises:
            InputError: The prompt set has none.
        """
        if self.prompts.notes is None:
            raise InputError("the prompt set has no [notes] table, which the notes policy needs")
        return self.prompts.notes
