"""What happened, line by line: the last lines to read, and a digest of all of them to compare."""

import asyncio
import hashlib
from collections import deque

LINES_KEPT = 200


class Trace:
    """The story of one simulation."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, whole: bool = False) -> None:
        self.lines: deque[str] = deque(maxlen=None if whole else LINES_KEPT)
        self._loop = loop
        self._digest = hashlib.blake2b(digest_size=8)
        self._begin_s = loop.time()
        self.whole = whole

    def note(self, who: str, what: str, *more: object) -> None:
        """Add a line."""
        line = " ".join(
            [f"{self._loop.time() - self._begin_s:10.6f}", f"{who:12}", what, *(str(one) for one in more)]
        )
        self.lines.append(line)
        self._digest.update(line.encode())
        self._digest.update(b"\n")

    def remark(self, who: str, what: str) -> None:
        """Add a line for the reader alone, if everything is to be read: what the product logs."""
        if self.whole:
            self.lines.append(f"{self._loop.time() - self._begin_s:10.6f} {who:12} . {what}")

    def digest(self) -> str:
        """Return what all lines together come to."""
        return self._digest.hexdigest()
