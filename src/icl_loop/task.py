"""The task of one session: ask about a sample, read the reply, judge the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from icl_loop import answers
from icl_loop.answers import Reading
from icl_loop.encodings import Encoding, prepared
from icl_loop.errors import InputError
from icl_loop.feedback import Judgement, feedback_rule
from icl_loop.labels import LabelMap
from icl_loop.messages import Message, Reply, system
from icl_loop.records import Feedback, Sample
from icl_loop.wording import Wording


@dataclass(frozen=True)
class Task:
    """What one session asks, and how it judges.

    Attributes:
        samples: The stream, one sample a turn.
        encoding: Shows the samples.
        size: Side of the encoded images in pixels; rows and texts have none.
        labels: The names by which the model is given the classes.
        wording: The sentences it reads.
        feedback: Kind of feedback it is told.
        key: Seed and stream: what random choices of this session are keyed by.
    """

    samples: Sequence[Sample]
    encoding: Encoding
    size: int
    labels: LabelMap
    wording: Wording
    feedback: str
    key: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        feedback_rule(self.feedback)
        self.read(Reply(""))  # refuses labels that would read the same
        torn = [n for n in self.names if ", " in n or not n.strip() or not n.isprintable()]
        if torn:
            raise InputError(f"a label is one line of plain text without commas, got {torn[0]!r}")

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The labels that the model may answer, in order."""
        return tuple(self.labels.values())

    @cached_property
    def system(self) -> Message:
        """The message that opens every request."""
        return system(self.wording.frame(self.names, self.encoding.name, self.size, self.feedback))

    def ask(self, turn: int) -> Message:
        """Return the question of this turn."""
        return _question(self.samples[turn], self.encoding, self.size, self.wording)

    def truth(self, turn: int) -> str:
        """Return the right label of this turn, in the names the model is given."""
        return self.labels[self.samples[turn].label]

    def read(self, reply: Reply) -> Reading:
        """Return the label that a reply answers, or why there is none."""
        return answers.read(reply.text, self.names, reply.finish, self.wording.answer)

    def judge(self, turn: int, answer: str | None) -> Feedback:
        """Judge the answer of this turn, then choose the words that are told of it."""
        truth = self.truth(turn)
        judgement = Judgement(turn, correct=answer == truth)
        phrase = feedback_rule(self.feedback)(judgement)
        return Feedback(judgement.correct, self.wording.tell(phrase, truth))


@lru_cache(4_096)
def _question(sample: Sample, encoding: Encoding, size: int, wording: Wording) -> Message:
    """Return the question about a sample: one object, since every arm asks the same ones."""
    return wording.about(encoding.name).show(encoding.encode(prepared(sample, encoding, size)))
