"""How long to wait before something is tried again. Pure: the randomness is handed in.

The wait is drawn evenly below a ceiling that doubles with each attempt: of a thousand cabinets that were cut off at
one instant, each second hears as many as any other. Where trying at once would be no use, a part of the ceiling is
always waited.
"""

import random
from collections.abc import Callable

LEAST_S = 0.05
"""No draw is shorter: an attempt that fails at once must not make a loop that never rests."""


class Retry:
    """Draws one wait after another.

    Args:
        first_s: the ceiling of the first wait; doubled for each that follows.
        most_s: the ceiling that none exceeds.
        steady: the part of the ceiling that is always waited, 0–1.
        draw: returns a number from its first to its second argument.
    """

    def __init__(
        self,
        first_s: float,
        most_s: float,
        steady: float = 0.0,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._steady = steady
        self._draw = draw
        self._ceiling_s = first_s

    @property
    def ceiling_s(self) -> float:
        """The longest that the next wait can be."""
        return min(self._ceiling_s, self._most_s)

    def wait_s(self) -> float:
        """Draw the next wait."""
        ceiling_s = self.ceiling_s
        self._ceiling_s = min(self._ceiling_s * 2, self._most_s)
        return self._draw(min(max(LEAST_S, self._steady * ceiling_s), ceiling_s), ceiling_s)

    def worked(self) -> None:
        """Begin anew with the first ceiling."""
        self._ceiling_s = self._first_s
