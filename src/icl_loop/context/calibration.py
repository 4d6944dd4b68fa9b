"""How the endpoint's token counts relate to those counted locally."""

from bisect import bisect_left, bisect_right
from collections import deque

LOWEST, HIGHEST = 0.5, 8.0
"""The plausible range of reported tokens per counted token; ratios outside it are cut to it."""
LOWEST_OF_IMAGES = 0.015
"""The same for images, whose tokens are bounded from above."""


class Calibration:
    """The number of tokens that the endpoint reports per token counted locally.

    It is the largest ratio of the last 16 requests plus 2 %, because the next image may take more
    tokens than those before. It is 1 if the two counts agree to 0.2 %.

    A report that a shorter request contradicts is ignored: some endpoints count only what their cache
    does not hold, or cut long prompts without saying so, and the window must not grow by that.
    """

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=16)
        self._counted: list[int] = []  # both increase: reports that more counted tokens
        self._reported: list[int] = []  # brought more reported ones

    def add(self, reported: int, counted: int, images: int = 0) -> bool:
        """Add a request for which the endpoint reported its tokens; return whether that counts.

        `images` of the `counted` tokens are those of images.
        """
        if self._is_contradicted(reported, counted):
            return False
        least = LOWEST * (counted - images) + LOWEST_OF_IMAGES * images
        ratio = min(max(reported, least) / counted, HIGHEST)
        usual = sorted(self._ratios)[len(self._ratios) // 2] if self._ratios else ratio
        self._ratios.append(ratio)
        if ratio <= 2 * usual:  # a single high report must not contradict all that follow
            self._keep(reported, counted)
        return True

    def _is_contradicted(self, reported: int, counted: int) -> bool:
        """Return whether a shorter request was reported to be no shorter."""
        not_longer, shorter = self._most(counted), self._most(int(0.9 * counted))
        return reported < 0.8 * not_longer or reported <= shorter

    def _most(self, counted: int) -> int:
        """Return the most tokens reported for a request of at most `counted` tokens."""
        place = bisect_right(self._counted, counted)
        return self._reported[place - 1] if place else 0

    def _keep(self, reported: int, counted: int) -> None:
        if reported <= self._most(counted):
            return
        start = bisect_left(self._counted, counted)
        end = bisect_right(self._reported, reported)
        self._counted[start:end], self._reported[start:end] = [counted], [reported]

    @property
    def value(self) -> float:
        """Reported tokens per counted token."""
        ratio = max(self._ratios, default=1.0)
        return 1.0 if abs(ratio - 1) <= 0.002 else round(ratio * 1.02, 4)
