"""The task of one session: ask about a sample, read the reply, judge the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply, system
from icl_loop.core.records import Feedback, Sample, Turn
from icl_loop.tasks.answers import STATED, AnswerRule, ParsedAnswer, parse_answer
from icl_loop.tasks.encodings import Encoding, prepare_sample
from icl_loop.tasks.feedback import YOKED, FeedbackPolicy
from icl_loop.tasks.labels import LabelMap
from icl_loop.tasks.prompts import PromptSet
from icl_loop.tasks.transforms import Transform, unchanged

Replies = Literal["full", "answer"]
"""What later requests show of a reply: all of it, or its final line alone."""


@dataclass(frozen=True)
class Task:
    """What one session asks, and how it judges.

    Attributes:
        samples: The stream, one sample a turn.
        encoding: Shows the samples.
        size: Side of the encoded images in pixels; rows and texts have none.
        label_map: The names by which the model is given the classes.
        prompts: The sentences it reads.
        feedback: What it is told.
        key: Seed and stream: what random choices of this session are keyed by.
        transform: What happens to the pixels before they are written.
        swap: The turn from which on other names hold, and these; None if they hold throughout.
        replies: What later requests show of a reply.
        probes: Held-out samples, asked in forks.
        checkpoints: After how many turns they are asked.
        rule: How replies are read.
    """

    samples: Sequence[Sample]
    encoding: Encoding
    size: int
    label_map: LabelMap
    prompts: PromptSet
    feedback: FeedbackPolicy = field(default_factory=FeedbackPolicy)
    key: tuple[int, int] = (0, 0)
    transform: Transform = unchanged
    swap: tuple[int, LabelMap] | None = None
    replies: Replies = "full"
    probes: Sequence[Sample] = ()
    checkpoints: tuple[int, ...] = ()
    rule: AnswerRule = STATED

    def __post_init__(self) -> None:
        self.parse(Reply(""))  # refuses labels that would read the same
        if self.transform is not unchanged and self.encoding.modality != "picture":
            raise InputError(
                f"the pixels of a {self.encoding.modality} cannot be moved: it has none"
            )
        torn = [n for n in self.labels if ", " in n or not n.strip() or not n.isprintable()]
        if torn:
            raise InputError(f"a label is one line of plain text without commas, got {torn[0]!r}")

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels that the model may answer, in an order that tells nothing of the classes."""
        given = self.label_map.values()
        return tuple(self.label_map if self.label_map.keys() == set(given) else sorted(given))

    @cached_property
    def system(self) -> Message:
        """The message that opens every request."""
        announced = self.feedback.announcement
        return system(
            self.prompts.system_text(self.labels, self.encoding.name, self.size, announced)
        )

    def question(self, turn: int) -> Message:
        """Return the question of this turn."""
        return self.question_about(self.samples[turn])

    def question_about(self, sample: Sample) -> Message:
        """Return the question about a sample."""
        return _question(sample, self.encoding, self.size, self.transform, self.prompts)

    def true_label(self, turn: int) -> str:
        """Return the right label of this turn, in the names the model is given."""
        return self.label_of(self.samples[turn], turn)

    def label_of(self, sample: Sample, turn: int) -> str:
        """Return the name that the class of a sample has at `turn`."""
        swapped = self.swap is not None and turn >= self.swap[0]
        names = self.swap[1] if self.swap is not None and swapped else self.label_map
        return names[sample.label]

    def parse(self, reply: Reply) -> ParsedAnswer:
        """Return the label that a reply answers, or why there is none."""
        return parse_answer(reply.text, self.labels, reply.finish, self.prompts.answer, self.rule)

    def score(self, turn: int, answer: str | None, past: Sequence[Turn] = ()) -> Feedback:
        """Judge the answer of this turn, then choose the words that are told of it.

        Args:
            turn: The turn.
            answer: What was answered.
            past: The turns before it, all of them; needed where verdicts come late.
        """
        truth = self.true_label(turn)
        correct = answer == truth
        if self.feedback.kind == YOKED:
            return Feedback(correct, self._told_to_donor(turn))
        about = turn - self.feedback.delay
        verdict = correct if about == turn else about >= 0 and past[about].feedback.correct
        phrase = self.feedback.phrase(about, self.key, correct=verdict)
        return Feedback(correct, self.prompts.tell(phrase, truth, self.feedback.delay))

    def shown_reply(self, turn: int, reply: Reply, answer: str | None) -> str | None:
        """Return what later requests show in place of the reply, or None if it is shown itself."""
        if self.feedback.kind == "demonstrations":
            shown = self.prompts.reply(self.true_label(turn))
        elif self.replies == "answer" and answer is not None:
            shown = self.prompts.reply(answer)
        else:
            return None
        return None if shown == reply.text else shown

    def _told_to_donor(self, turn: int) -> str:
        donor = self.feedback.donor
        if donor is None or turn >= len(donor):
            had = 0 if donor is None else len(donor)
            raise InputError(f"turn {turn} is yoked to a donor session of {had} turns")
        return donor[turn]


@lru_cache(1_024)
def _question(
    sample: Sample, encoding: Encoding, size: int, transform: Transform, prompts: PromptSet
) -> Message:
    """Return the question about a sample: one object, since every arm asks the same ones."""
    values = prepare_sample(sample, encoding, size)
    if transform is not unchanged:
        values = transform(values)
    return prompts.section_for(encoding.name).ask(encoding.encode(values))
