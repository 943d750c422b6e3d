"""What must hold, from outside: a model of its own, which shares no code with the product.

It keeps its own books of what every device was asked, reads sealed batches as plain MessagePack, and looks at
files by plain SQL.
"""

import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from tests.simulation.story import Trace

MOST_VIOLATIONS = 20
"""Of one simulation; more say nothing new."""
SLACK_MS = 5
"""Between when a device was asked and when that was noted."""
_UNZIP = zstandard.ZstdDecompressor()

Place = tuple[int, int, int]
"""Epoch, stream, number."""
Value = tuple[str, int]
"""A reading is what it is by its device and its count."""


class Asked(msgspec.Struct, frozen=True):
    """When a device was asked, as its cabinet's clock had it."""

    stream: int
    at_ms: int


class Gap(msgspec.Struct, frozen=True):
    """A hole of which the centre knows."""

    cabinet: str
    stream: int
    epoch: int
    first: int
    last: int
    cause: str
    from_ms: int | None
    to_ms: int | None
    count: int | None
    reported: int

    def covers(self, place: Place) -> bool:
        """Tell whether a batch lies in it."""
        return place[:2] == (self.epoch, self.stream) and self.first <= place[2] <= self.last

    def holds(self, asked: Asked) -> bool:
        """Tell whether a moment lies in it."""
        return (
            self.stream == asked.stream
            and self.from_ms is not None
            and self.to_ms is not None
            and self.from_ms - SLACK_MS <= asked.at_ms <= self.to_ms + SLACK_MS
        )


class Books:
    """What is known of one cabinet.

    Attributes:
        asked: every reading that a device gave.
        committed: those that the outbox said were committed, that it sent, or that an end has left on its disk.
        last_place: where each was last seen to stand.
        hashes: the bytes of each batch, by place.
        caught: readings that were in memory only when the agent ended.
        just_caught: those of the last end.
        turned_away: readings for which the outbox's memory had no room.
        deaths: how often it ended without being told to.
        wiped: readings that went with a card that was put back to an earlier state.
        twofold: readings that such a card holds again.
        trusted: whether its clock was right all the time.
        bounded: whether its outbox may have to drop something.
    """

    def __init__(self) -> None:
        self.asked: dict[Value, Asked] = {}
        self.committed: set[Value] = set()
        self.last_place: dict[Value, Place] = {}
        self.hashes: dict[Place, int] = {}
        self.caught: set[Value] = set()
        self.just_caught: set[Value] = set()
        self.turned_away: set[Value] = set()
        self.deaths = 0
        self.restored = 0
        self.wiped: set[Value] = set()
        self.twofold: set[Value] = set()
        self.trusted = True
        self.bounded = False


class Judge:
    """Watches one simulation.

    Attributes:
        violations: what should not have been.
    """

    def __init__(self, trace: Trace, folder: Path) -> None:
        self.violations: list[str] = []
        self.put_backs = 0
        self._trace = trace
        self._folder = folder
        self._books: defaultdict[str, Books] = defaultdict(Books)
        self._marks: dict[tuple[str, int, int], int] = {}
        self._look: sqlite3.Connection | None = None
        self._looked_at: Path | None = None

    def violation(self, what: str) -> None:
        """Note what should not have been."""
        if len(self.violations) < MOST_VIOLATIONS:
            self.violations.append(what)
            self._trace.note("VIOLATION", what)

    def books(self, cabinet: str) -> Books:
        """Return what is known of a cabinet."""
        return self._books[cabinet]

    # The cabinet

    def asked(self, cabinet: str, device: str, stream: int, values: Iterable[int], at_ms: int) -> None:
        """Note that a device gave readings."""
        listed = list(values)
        for value in listed:
            self._books[cabinet].asked[device, value] = Asked(int(stream), at_ms)
        self._trace.remark(cabinet, f"{device} gives {listed} for stream {int(stream)} at {at_ms}")

    def turned_away(self, cabinet: str, device: str, values: Iterable[int]) -> None:
        """Note that the outbox's memory was full."""
        self._books[cabinet].turned_away.update((device, value) for value in values)

    def inserted(self, cabinet: str, sealed: bytes) -> None:
        """Note what a commit has put into the outbox's file, though it may have given way at once."""
        self._see(cabinet, sealed)

    def told(self, cabinet: str, sealed: bytes) -> None:
        """Note that the outbox says: this is committed."""
        place, values = self._see(cabinet, sealed)
        self._trace.note(cabinet, "committed", *place, len(values))

    def sent(self, cabinet: str, payload: bytes) -> None:
        """Note that a batch is on its way."""
        place, _ = self._see(cabinet, payload[8:])
        self._trace.note(cabinet, "sent", *place, f"floor {int.from_bytes(payload[:8], 'big')}")

    def started(self, cabinet: str, last_end: str) -> None:
        """Note how an agent says that the run before it ended."""
        if last_end == "clean" and self._books[cabinet].just_caught:
            self.violation(f"{cabinet}: says that its last run ended cleanly")

    def stopped(self, cabinet: str, image: dict[str, bytes]) -> None:
        """Note that an agent ended as it should: nothing may be missing of it.

        If the disk did not take the note of that, the next run must think of a crash.
        """
        books = self._books[cabinet]
        with _opened(image, self._folder) as db:
            books.deaths += db.execute("SELECT value FROM meta WHERE key = 'running'").fetchone()[0] != ""
        books.just_caught = set()
        missing = books.asked.keys() - books.committed - books.caught - books.turned_away
        if missing and not books.restored:
            self.violation(f"{cabinet}: ended cleanly without {_some(missing)}")

    def died(self, cabinet: str, image: dict[str, bytes]) -> None:
        """Note what an agent that was ended leaves on its disk; the rest was in memory only."""
        books = self._books[cabinet]
        books.deaths += 1
        self._held(cabinet, image)
        books.just_caught = books.asked.keys() - books.committed - books.caught - books.turned_away
        books.caught |= books.just_caught

    def restored(self, cabinet: str, image: dict[str, bytes]) -> None:
        """Note that a card was put back to an earlier state."""
        books = self._books[cabinet]
        books.restored += 1
        books.just_caught = set()
        held = self._held(cabinet, image, known=False)
        books.wiped |= books.asked.keys() - held
        books.twofold |= held

    # The centre

    def put_back(self) -> None:
        """Note that the centre's store was put back to an earlier state."""
        self.put_backs += 1
        self._marks.clear()

    def acknowledged(self, cabinet: str, payload: bytes, path: Path) -> None:
        """Compare what is acknowledged with what the centre's file holds, seen through a connection of our own."""
        epoch, marks = msgspec.msgpack.decode(payload)
        found = self._looking(path).execute(
            "SELECT stream, mark FROM stream WHERE cabinet = ? AND epoch = ?", (cabinet, epoch)
        )
        held = dict(found.fetchall())
        self._trace.note("centre", "acknowledges", cabinet, epoch, *(f"{one[0]}:{one[1]}" for one in marks))
        for stream, mark, *_ in marks:
            if mark > held.get(stream, 0):
                self.violation(
                    f"{cabinet}: stream {stream} is acknowledged to {mark}, the file has {held.get(stream)}"
                )
            if mark < self._marks.get((cabinet, epoch, stream), 0):
                self.violation(f"{cabinet}: the mark of stream {stream} went back to {mark}")
            self._marks[cabinet, epoch, stream] = mark

    def refused(self, reasons: dict[str, int]) -> None:
        """Note what the centre has refused: nobody here sends anything but what is right."""
        if reasons:
            self.violation(f"the centre has refused {reasons}")

    def forget_file(self) -> None:
        """Let go of the centre's file, which is about to go away."""
        if self._look is not None:
            self._look.close()
        self._look = self._looked_at = None

    # The end

    def judge(self, image: dict[str, bytes]) -> None:
        """Compare what the centre's disk holds in the end with what was asked for."""
        with _opened(image, self._folder, "central.db") as db:
            rows = db.execute(
                "SELECT cabinet, epoch, stream, number, device, value FROM reading"
                " JOIN batch ON batch.id = batch_id JOIN stream ON stream.id = stream_id"
                " JOIN series ON series.id = series_id ORDER BY batch_id, idx"
            ).fetchall()
            gaps = [Gap(*row) for row in db.execute(f"SELECT {', '.join(Gap.__struct_fields__)} FROM gap")]  # noqa: S608  words of ours
        for cabinet, books in self._books.items():
            mine = [(*row[1:5], _count(row[5])) for row in rows if row[0] == cabinet]
            holes = [gap for gap in gaps if gap.cabinet == cabinet]
            self._check_order(cabinet, books, mine)
            self._check_once(cabinet, books, mine)
            self._check_lost(cabinet, books, {(row[3], row[4]) for row in mine}, holes)
            self._check_causes(cabinet, books, holes)

    def _check_order(self, cabinet: str, books: Books, rows: Sequence[tuple[Any, ...]]) -> None:
        last: dict[object, int] = {}
        for epoch, _, number, device, value in rows:
            key = (device, epoch) if books.restored else device
            if value <= last.get(key, 0):
                self.violation(
                    f"{cabinet}: {device} {value} comes after {last[key]}, in batch {number} of {epoch}"
                )
            last[key] = value

    def _check_once(self, cabinet: str, books: Books, rows: Sequence[tuple[Any, ...]]) -> None:
        counts = Counter((row[3], row[4]) for row in rows)
        twice = {value for value, count in counts.items() if count > 1} - books.twofold
        if twice:
            self.violation(f"{cabinet}: there more than once: {_some(twice)}")
        if strange := counts.keys() - books.asked.keys():
            self.violation(f"{cabinet}: never asked for: {_some(strange)}")

    def _check_lost(self, cabinet: str, books: Books, there: set[Value], gaps: Sequence[Gap]) -> None:
        lost = books.asked.keys() - there - books.wiped
        crashes = [gap for gap in gaps if gap.cause == "crash"]
        unexplained = set()
        certain: Counter[int] = Counter()
        perhaps: Counter[int] = Counter()
        for value in lost:
            asked = books.asked[value]
            place = books.last_place.get(value)
            if value in books.turned_away and books.deaths:
                perhaps[asked.stream] += 1
            elif value in books.caught:
                perhaps[asked.stream] += 1
                held = any(
                    gap.holds(asked) if books.trusted else gap.stream == asked.stream for gap in crashes
                )
                # A commit that its process did not live to hear of may have been durable, and shed it at once.
                held = held or any(gap.cause == "shed" and gap.holds(asked) for gap in gaps)
                if not held and not self._excused(books, place, gaps):
                    unexplained.add(value)
            else:
                certain[asked.stream] += 1
                if place is None or any(gap.covers(place) for gap in gaps):
                    continue
                self.violation(f"{cabinet}: {value} of batch {place} is lost, and no gap says so")
        if unexplained:
            asked = books.asked[min(unexplained)]
            spans = [(gap.from_ms, gap.to_ms) for gap in crashes if gap.stream == asked.stream]
            self.violation(
                f"{cabinet}: lost at an end, and no gap says so: {_some(unexplained)},"
                f" the first asked for at {asked.at_ms}, gaps of stream {asked.stream} are {spans}"
            )
        if not books.restored and not self.put_backs:
            self._check_counts(cabinet, gaps, certain, perhaps)

    def _excused(self, books: Books, place: Place | None, gaps: Sequence[Gap]) -> bool:
        """Tell whether a gap event may itself have been lost, with a store or a stream that is gone."""
        if self.put_backs or books.restored:
            return True
        return place is not None and any(gap.covers(place) for gap in gaps)

    def _check_counts(
        self, cabinet: str, gaps: Sequence[Gap], certain: Counter[int], perhaps: Counter[int]
    ) -> None:
        for stream in range(4):
            counted = sum(gap.count or 0 for gap in gaps if gap.stream == stream)
            if not certain[stream] <= counted <= certain[stream] + perhaps[stream]:
                self.violation(
                    f"{cabinet}: gaps of stream {stream} count {counted} readings; {certain[stream]} are lost,"
                    f" and {perhaps[stream]} may have been in memory"
                )

    def _check_causes(self, cabinet: str, books: Books, gaps: Sequence[Gap]) -> None:
        true = {
            "shed": books.bounded,
            "crash": books.deaths > 0,
            "unknown_to_centre": self.put_backs > 0,
            "epoch": books.restored > 0,
        }
        for gap in gaps:
            if not true.get(gap.cause, False):
                self.violation(f"{cabinet}: a gap of an untrue cause: {gap}")
            elif gap.cause == "shed" and not gap.reported and not self.put_backs and not books.restored:
                self.violation(f"{cabinet}: the cabinet never told of {gap}")

    # Reading

    def _see(self, cabinet: str, sealed: bytes) -> tuple[Place, list[Value]]:
        """Take note of a batch; its number must never have stood for anything else.

        A card that was put back to an earlier state cannot know what it sent since; if the centre does not either,
        no harm is done, and if it does, what is lost or there twice will show.
        """
        place, values = read(sealed)
        books = self._books[cabinet]
        other = books.hashes.setdefault(place, hash(sealed)) != hash(sealed)
        if other and not books.restored:
            self.violation(f"{cabinet}: number {place} stands for two batches")
        books.committed.update(values)
        books.last_place.update(dict.fromkeys(values, place))
        return place, values

    def _held(self, cabinet: str, image: dict[str, bytes], *, known: bool = True) -> set[Value]:
        """Return the readings on a disk's image."""
        held: set[Value] = set()
        with _opened(image, self._folder) as db:
            if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'batch'").fetchone()[0]:
                return held  # ended before there was any
            for (sealed,) in db.execute("SELECT sealed FROM batch"):
                held.update(self._see(cabinet, sealed)[1] if known else read(sealed)[1])
        return held

    def _looking(self, path: Path) -> sqlite3.Connection:
        if self._look is None or self._looked_at != path:
            self.forget_file()
            self._look = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            self._looked_at = path
        return self._look


def read(sealed: bytes) -> tuple[Place, list[Value]]:
    """Read a sealed batch: where it stands, and its readings in order."""
    fields = msgspec.msgpack.decode(_UNZIP.decompress(sealed))
    epoch, stream, number = fields[2:5]
    layouts, layout, _, values, _ = fields[9]
    found: list[Value] = []
    for index in layout:
        device, points = layouts[index]
        found += [(device, _count(value)) for value in values[len(found) : len(found) + len(points)]]
    return (epoch, stream, number), found


def _count(value: int | str) -> int:
    """Return the count that a reading is, without what it may be padded with."""
    return int(value.partition(":")[0]) if isinstance(value, str) else value


@contextmanager
def _opened(image: dict[str, bytes], where: Path, name: str = "outbox.db") -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory(dir=where) as folder:
        for one, content in image.items():
            (Path(folder) / one).write_bytes(content)
        db = sqlite3.connect(Path(folder) / name)
        try:
            yield db
        finally:
            db.close()


def _some(values: Iterable[Value]) -> str:
    """Name a few of many."""
    listed = sorted(values)
    return f"{len(listed)} readings, {', '.join(f'{device}={value}' for device, value in listed[:4])}"
