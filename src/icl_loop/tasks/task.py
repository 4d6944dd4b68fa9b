"""The task of a session: it asks about samples, parses the replies and scores the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Literal

from icl_loop.core.errors import InputError
from icl_loop.core.messages import Message, Reply, system, user
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
from icl_loop.tasks.feedback import DONOR_KINDS, YOKED, FeedbackPolicy
from icl_loop.tasks.labels import LabelMap
from icl_loop.tasks.prompts import ParsedFeedback, PromptSet
from icl_loop.tasks.reasons import Reasons
from icl_loop.tasks.transforms import Transform, unchanged

Replies = Literal["full", "answer"]
"""How later requests show past replies: in full, or only their final line."""
Chooser = Literal["model", "random"]
"""Who chooses the samples that are not fixed before the first request."""


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
        reasons: What can be given as the reason of a verdict on each sample of the stream.
        candidates: By turn, the samples of which one is chosen before the turn.
        chooser: Whether the model chooses among them, or chance.
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
    reasons: Sequence[Reasons] = ()
    candidates: Mapping[int, Sequence[Sample]] = field(default_factory=dict)
    chooser: Chooser = "model"

    def __post_init__(self) -> None:
        self.parse(Reply(""))  # rejects labels that cannot be told apart
        self.prompts.check_forms(self.feedback.form, self.feedback.every)
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
        labels, feedback = self.labels if self.announced else (), self.feedback
        announced = feedback.announcement, feedback.form, feedback.every
        text = self.prompts.system_text(labels, self.encoding.name, self.size, *announced)
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

    def choice_question(self, turn: int) -> Message:
        """Return the message that asks which candidate the turn is to ask about."""
        how = self.encoding
        shown = [
            how.encode(self.transform(prepare_sample(each, how, self.size)))
            for each in self.candidates[turn]
        ]
        return user(self.prompts.choice_prompts.ask(list(map(str, shown))))

    def choose(self, turn: int, reply: Reply | None = None) -> tuple[Sample, ParsedAnswer]:
        """Return the candidate that a reply names, or else a random one, with the parsed number."""
        candidates, parsed = self.candidates[turn], ParsedAnswer(None, "unreadable")
        if reply is not None:
            numbers = [str(number) for number in range(1, len(candidates) + 1)]
            form = self.prompts.choice_prompts.answer
            parsed = parse_answer(reply.text, numbers, finish=reply.finish, form=form)
        if parsed.answer is None:
            return candidates[keyed_index(len(candidates), *self.key, "choice", turn)], parsed
        return candidates[int(parsed.answer) - 1], parsed

    def with_choices(self, turns: Sequence[Turn]) -> tuple["Task", list[Sample]]:
        """Return the task and its samples, those of played `turns` as chosen.

        A change of a later sample in the list changes the task, which is not built again for it.
        """
        if not self.candidates:
            return self, []
        samples = [*self.samples]
        for index, offered in self.candidates.items():
            if index < len(turns):
                chosen = turns[index].sample
                samples[index] = next((each for each in offered if each.id == chosen), offered[0])
        return replace(self, samples=samples), samples

    def true_label(self, turn: int) -> str:
        """Return the right label of a turn, as the model should name it."""
        return self.label_of(self.samples[turn], turn)

    def label_of(self, sample: Sample, turn: int) -> str:
        """Return the label of a sample, as the model should name it at this turn."""
        return self._names(turn)[sample.label]

    def _names(self, turn: int) -> LabelMap:
        """Return the names of the classes at this turn."""
        return self.swap[1] if self.swap is not None and turn >= self.swap[0] else self.label_map

    def parse(self, reply: Reply) -> ParsedAnswer:
        """Return the label that a reply gives, or None with the outcome."""
        return self.answer_parser(reply.text, finish=reply.finish)

    @cached_property
    def answer_parser(self) -> AnswerParser:
        """The function that parses replies; it can be pickled without the samples."""
        form = self.prompts.answer
        return partial(
            parse_answer, labels=self.labels, form=form, rule=self.rule, openings=self._openings
        )

    @cached_property
    def _openings(self) -> tuple[str, ...]:
        return self.prompts.openings(self.feedback.form, self.feedback.every)

    def score(self, turn: int, answer: str | None, past: Sequence[Turn] = ()) -> Feedback:
        """Score the answer of a turn, and choose what the model is told.

        Delayed and batched feedback need all earlier turns as `past`.
        """
        correct = answer == self.true_label(turn)
        judged = self.feedback.judged_after(turn)
        if self.feedback.kind == YOKED:
            told = self._told_by_donor(turn, answer, past)
        elif not judged:
            told = self.words(turn, answer, ParsedFeedback(None, None))
        else:
            scored = [(past[index].answer, past[index].feedback.correct) for index in judged[:-1]]
            last = judged[-1]
            is_late = last < turn
            scored.append(
                (past[last].answer, past[last].feedback.correct) if is_late else (answer, correct)
            )
            told = "\n".join(
                self._told_about(index, turn, given, correct=right)
                for index, (given, right) in zip(judged, scored, strict=True)
            )
        return Feedback(correct, told)

    def _told_about(self, index: int, turn: int, answer: str | None, *, correct: bool) -> str:
        """Return what the model is told after `turn` about its answer of turn `index`."""
        phrase = self.feedback.phrase(index, self.key, correct=correct)
        verdict = None if phrase == "recorded" else not phrase.endswith("incorrect")
        label = self.true_label(index) if phrase.startswith("revealed") else None
        return self.words(index, answer, ParsedFeedback(verdict, label, turn - index))

    def words(self, turn: int, answer: str | None, told: ParsedFeedback) -> str:
        """Return the words of feedback on the answer of a turn, in the form of the session.

        A reason that `told` lacks is chosen by the verdict if that is about the answer, and otherwise
        drawn among all that the sample or the stream offers.
        """
        form, reasons = self.feedback.form, self.reasons
        if form == "echo":
            told = replace(told, answer=answer)
        elif form == "reason" and told.reason is None and answer is not None:
            judges = self.feedback.kind in DONOR_KINDS and told.correct is not None
            classes = {name: each for each, name in self._names(turn).items()}
            named = classes.get(answer) if judges else None
            given = named and reasons[turn].given(named, correct=bool(told.correct))
            told = replace(told, reason=given or reasons[turn].drawn(*self.key, turn))
        return self.prompts.word(told, form, batched=self.feedback.every > 1)

    def _told_by_donor(self, turn: int, answer: str | None, past: Sequence[Turn]) -> str:
        """Return what a yoked session is told: the donor's words, or its verdicts on own answers.

        A revealed label never depends on the sample: it is the answer itself if the donor was right,
        and otherwise drawn from the other labels.
        """
        donor, feedback = self.feedback.donor or (), self.feedback
        if turn >= len(donor):
            raise InputError(f"turn {turn} is yoked to a donor session of {len(donor)} turns")
        told = donor[turn]
        if feedback.donor_kind != "label" and feedback.form in ("plain", "reward"):
            return told
        heard = self.prompts.parse_feedback(told)
        if not heard or (feedback.donor_kind == "label" and not self._has_verdicts(turn, heard)):
            raise InputError(f"turn {turn}: the donor was told {told!r}, which is no verdict")
        lines = []
        for each in heard:
            index = turn - each.ago
            given = past[index].answer if each.ago else answer
            own = ParsedFeedback(each.correct, None, each.ago)
            if feedback.donor_kind == "label" and each.correct is not None:
                own = replace(own, label=self._unrelated_label(index, given, correct=each.correct))
            lines.append(self.words(index, given, own))
        return "\n".join(lines)

    def _has_verdicts(self, turn: int, heard: Sequence[ParsedFeedback]) -> bool:
        return not self.feedback.judged_after(turn) or all(
            each.correct is not None for each in heard
        )

    def _unrelated_label(self, turn: int, answer: str | None, *, correct: bool) -> str:
        if correct and answer is not None:
            return answer
        others = [label for label in self.labels if label != answer] or self.labels
        return others[keyed_index(len(others), *self.key, "yoked label", turn)]

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
        final = final_text(reply.text, self.labels, self.prompts.answer, self._openings)
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
