"""Early alarm: say during a run that an arm's answers are unusable or its cache is not served."""

from collections.abc import Callable

from icl_loop.analysis.answer_problems import AnswerWatch, with_advice
from icl_loop.analysis.cache_problems import CacheWatch
from icl_loop.core.records import Turn
from icl_loop.experiment import Experiment, Session


class EarlyAlarm:
    """Watches the saved turns of a run, and says what is wrong once per arm.

    Attributes:
        unusable: Arms whose first replies hardly have any answers.
    """

    def __init__(self, experiment: Experiment, say: Callable[[str], None]) -> None:
        """Watch the arms of `experiment`; `say` is called with each problem, in words."""
        self._say = say
        self._answers = {arm: AnswerWatch(experiment.name, arm) for arm in experiment.arms}
        self._caches = {arm: CacheWatch(experiment.name, arm) for arm in experiment.arms}
        self.unusable: list[str] = []

    def turn(self, session: Session, turn: Turn) -> None:
        """Look at a turn that has been saved."""
        problem = self._answers[session.arm].add(session.file_name, turn)
        if problem is not None:
            settings = session.settings.model
            self._say(with_advice(problem, turn.reply, settings.answer_format).text)
            if problem.is_error:
                self.unusable.append(session.arm)
        used = turn.reply.usage
        missed = self._caches[session.arm].add(
            session.file_name,
            turn.index,
            prompt=used.prompt,
            cached=used.cached,
            counted=turn.counted or 0,
            prefix=turn.prefix or 0,
        )
        if missed is not None:
            self._say(missed.text)
