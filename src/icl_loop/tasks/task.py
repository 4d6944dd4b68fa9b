"""The task of a session: it asks about samples, parses the replies and scores the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Literal

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply, system
from icl_loop.core.records import Exemplar, Feedback, Sample, Turn, Verdicts, keyed_index
from icl_loop.tasks.answers import (
    STATED,
    AnswerParser,
    AnswerRule,
    ParsedAnswer,
    final_text,
    parse_answer,
)
from icl_loop.tasks.encodings import Encoding, prepare_sample
from icl_loop.tasks.feedback import FEEDBACK_PHRASES, YOKED, FeedbackPolicy
from icl_loop.tasks.labels import LabelMap
from icl_loop.tasks.prompts import PromptSet
from icl_loop.tasks.transforms import Transform, unchanged

Replies = Literal["full", "answer"]
"""How later requests show past replies: in full, or only their final line."""


@dataclass(frozen=True)
class Task:
    """What a session asks, and how it scores the answers.

    Attributes:
        samples: The stream, one sample per turn.
        size: Side of the encoded images in pixels; ignored for tables and texts.
        label_map: The names under which the model sees the classes.
        key: Seed and stream; they determine the random choices of the session.
        transform: Applied to the pixels before they are encoded.
        shown_first: Samples that requests show with the right answer before the turns.
        swap: The turn at which the label map changes, and the new map; None for no change.
        keep_reasoning: Whether later requests show the model's reasoning.
        probes: Held-out samples.
        checkpoints: The numbers of turns after which the probes are asked.
        announced: Whether the system text lists the labels.
        verdicts: The verdicts on past answers under which each probe is asked.
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
    keep_reasoning: bool = False
    probes: Sequence[Sample] = ()
    shown_first: Sequence[Sample] = ()
    checkpoints: tuple[int, ...] = ()
    verdicts: Sequence[Verdicts] = ("told",)
    rule: AnswerRule = STATED
    announced: bool = True

    def __post_init__(self) -> None:
        self.parse(Reply(""))  # rejects labels that cannot be told apart
        if self.transform is not unchanged and self.encoding.modality != "picture":
            raise InputError(
                f"pixels cannot be transformed: the encoding {self.encoding.name!r} shows a"
                f" {self.encoding.modality}"
            )
        for label in self.labels:
            if ", " in label or not label.strip() or not label.isprintable():
                raise InputError(f"a label must be one line without ', ', got {label!r}")

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels that the model may answer, in an order that does not reveal the classes."""
        names = self.label_map.values()
        return tuple(self.label_map if self.label_map.keys() == set(names) else sorted(names))

    @cached_property
    def system(self) -> Message:
        """The system message of every request."""
        labels = self.labels if self.announced else ()
        text = self.prompts.system_text(
            labels, self.encoding.name, self.size, self.feedback.announcement
        )
        return system(text)

    @cached_property
    def exemplars(self) -> tuple[Exemplar, ...]:
        """What requests show between the system message and the turns, the same for any feedback."""
        return tuple(map(self._exemplar, self.shown_first))

    def _exemplar(self, sample: Sample) -> Exemplar:
        label, question = self.label_of(sample, 0), self.question_about(sample)
        reply, told = self.prompts.reply(label), self.prompts.tell("correct", label)
        return Exemplar(sample.id, label, question, reply, told)

    @property
    def opening(self) -> tuple[Message, ...]:
        """The messages with which every request begins: system and exemplars."""
        return (self.system, *(message for each in self.exemplars for message in each.messages))

    def question(self, turn: int) -> Message:
        """Return the question of a turn."""
        return self.question_about(self.samples[turn])

    def question_about(self, sample: Sample) -> Message:
        """Return the question about a sample."""
        return _question(sample, self.encoding, self.size, self.transform, self.prompts)

    def true_label(self, turn: int) -> str:
        """Return the right label of a turn, as the model should name it."""
        return self.label_of(self.samples[turn], turn)

    def label_of(self, sample: Sample, turn: int) -> str:
        """Return the label of a sample, as the model should name it at this turn."""
        label_map = self.label_map
        if self.swap is not None and turn >= self.swap[0]:
            label_map = self.swap[1]
        return label_map[sample.label]

    def parse(self, reply: Reply) -> ParsedAnswer:
        """Return the label that a reply gives, or None with the outcome."""
        return self.answer_parser(reply.text, finish=reply.finish)

    @cached_property
    def answer_parser(self) -> AnswerParser:
        """The function that parses replies; it can be pickled without the samples."""
        form, openings = self.prompts.answer, self.prompts.openings
        return partial(
            parse_answer, labels=self.labels, form=form, rule=self.rule, openings=openings
        )

    def score(self, turn: int, answer: str | None, past: Sequence[Turn] = ()) -> Feedback:
        """Score the answer of a turn, and choose what the model is told.

        Delayed feedback needs all earlier turns as `past`.
        """
        label = self.true_label(turn)
        correct = answer == label
        if self.feedback.kind == YOKED:
            return Feedback(correct, self._told_by_donor(turn, answer))
        about = turn - self.feedback.delay
        told_correct = correct if about == turn else about >= 0 and past[about].feedback.correct
        phrase = self.feedback.phrase(about, self.key, correct=told_correct)
        return Feedback(correct, self.prompts.tell(phrase, label, self.feedback.delay))

    def _told_by_donor(self, turn: int, answer: str | None) -> str:
        """Return what a yoked session is told: the donor's words, or its verdict and another label.

        A revealed label never depends on the sample: it is the answer itself if the donor was right,
        and otherwise drawn from the other labels.
        """
        donor = self.feedback.donor or ()
        if turn >= len(donor):
            raise InputError(f"turn {turn} is yoked to a donor session of {len(donor)} turns")
        told = donor[turn]
        if self.feedback.donor_kind != "label":
            return told
        heard = self.prompts.parse_feedback(told)
        if heard is None or heard.correct is None:
            raise InputError(f"turn {turn}: the donor was told {told!r}, which is no verdict")
        phrase = FEEDBACK_PHRASES["label"][0 if heard.correct else 1]
        if heard.correct and answer is not None:
            return self.prompts.tell(phrase, answer)
        others = [label for label in self.labels if label != answer] or self.labels
        drawn = keyed_index(len(others), *self.key, "yoked label", turn)
        return self.prompts.tell(phrase, others[drawn])

    def shown_reply(self, turn: int, reply: Reply, answer: str | None) -> str | None:
        """Return what later requests show in place of a reply, or None if they show it as it is."""
        if self.feedback.kind == "demonstrations":
            shown = self.prompts.reply(self.true_label(turn))
        elif self.replies == "answer" and answer is not None:
            shown = self.prompts.reply(answer)
        else:
            shown = self._final_text(reply)
        return None if shown == reply.text else shown

    def _final_text(self, reply: Reply) -> str:
        """Return what a reply says in the end, with its reasoning if that is to be kept."""
        final = final_text(reply.text, self.labels, self.prompts.answer, self.prompts.openings)
        text = final.text if final.text.strip() else self.prompts.no_reply
        thoughts = [each.strip() for each in (reply.reasoning_text, final.thoughts) if each]
        if not self.keep_reasoning or not thoughts:
            return text
        if not reply.reasoning_text and reply.text.endswith(text) and "<|" not in reply.text:
            return reply.text
        return "<think>\n{}\n</think>\n\n{}".format("\n".join(thoughts), text)


@lru_cache(1_024)  # all arms ask the same questions
def _question(
    sample: Sample, encoding: Encoding, size: int, transform: Transform, prompts: PromptSet
) -> Message:
    values = prepare_sample(sample, encoding, size)
    return prompts.section_for(encoding.name).ask(encoding.encode(transform(values)))
