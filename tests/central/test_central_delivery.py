"""However batches and acknowledgements are lost, doubled or delayed: nothing is lost, doubled or reordered."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.backhaul.messages import Ack
from protocols.model.device import StreamClass
from tests.central.cabinet_double import CabinetDouble, Message, taken
from tests.central.desk import Desk

STREAMS = (StreamClass.CRITICAL, StreamClass.ORDINARY)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("seal"), st.sampled_from(STREAMS), st.integers(1, 3)),
        st.tuples(st.just("send"), st.sampled_from(STREAMS), st.integers(0, 5)),
        st.tuples(st.just("arrive"), st.sampled_from(STREAMS), st.integers(0, 40)),
        st.tuples(st.just("hear"), st.sampled_from(STREAMS), st.integers(0, 40)),
        st.tuples(st.just("shed"), st.sampled_from(STREAMS), st.integers(1, 2)),
        st.tuples(st.just("hello"), st.sampled_from(STREAMS), st.integers(0, 0)),
        st.tuples(st.just("restart"), st.sampled_from(STREAMS), st.integers(0, 0)),
    ),
    max_size=60,
)


class Story:
    """A cabinet, a wire that keeps everything it ever carried, and a centre."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "central.db"
        self.desk = Desk(self.path)
        self.cabinet = CabinetDouble()
        self.values = itertools.count()
        self.sealed: dict[StreamClass, dict[int, list[int]]] = {stream: {} for stream in STREAMS}
        self.wire: list[Message] = []
        self.answers: list[Ack] = []

    def seal(self, stream: StreamClass, size: int) -> None:
        taken_now = [next(self.values) for _ in range(size)]
        device = self.cabinet.lamp(STREAMS.index(stream))
        number = self.cabinet.seal([taken(device, value, at_ms=value) for value in taken_now], stream=stream)
        self.sealed[stream][number] = taken_now

    def send(self, stream: StreamClass, nth: int) -> None:
        waiting = [number for kind, number in sorted(self.cabinet.outbox) if kind is stream]
        if waiting:
            self.wire.append(self.cabinet.message(waiting[nth % len(waiting)], stream))

    def arrive(self, _stream: StreamClass, nth: int) -> None:
        if self.wire:
            self.deliver(self.wire[nth % len(self.wire)])

    def deliver(self, message: Message) -> None:
        self.desk.deliver(message)
        if self.desk.effects.acks:
            self.answers.append(self.desk.answer(self.cabinet))

    def hear(self, _stream: StreamClass, nth: int) -> None:
        if self.answers:
            self.cabinet.acknowledged(self.answers[nth % len(self.answers)])

    def shed(self, stream: StreamClass, count: int) -> None:
        waiting = [number for kind, number in sorted(self.cabinet.outbox) if kind is stream]
        if waiting:
            self.cabinet.shed(waiting[min(count, len(waiting)) - 1], stream)

    def hello(self, _stream: StreamClass, _count: int) -> None:
        self.deliver(self.cabinet.hello())

    def restart(self, _stream: StreamClass, _count: int) -> None:
        self.desk.close()
        self.desk = Desk(self.path)

    def drain(self) -> None:
        while self.cabinet.outbox:
            for message in self.cabinet.waiting():
                self.deliver(message)
            self.cabinet.acknowledged(self.desk.answer(self.cabinet))
        self.deliver(self.cabinet.hello())

    def missing(self, stream: StreamClass) -> set[int]:
        found = self.desk.ask("SELECT first, last FROM gap WHERE stream = ?", (stream,))
        numbers = [number for first, last in found for number in range(int(str(first)), int(str(last)) + 1)]
        assert len(numbers) == len(set(numbers)), "a batch is missing twice"
        return set(numbers)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_every_reading_is_committed_once_and_in_order_or_is_in_a_gap(
    told: list[tuple[str, StreamClass, int]],
) -> None:
    with TemporaryDirectory() as folder:
        story = Story(Path(folder))
        for verb, stream, count in told:
            getattr(story, verb)(stream, count)
        story.drain()
        for stream in STREAMS:
            missing = story.missing(stream)
            expected = [
                value
                for number, values in sorted(story.sealed[stream].items())
                if number not in missing
                for value in values
            ]
            assert story.desk.values(story.cabinet.lamp(STREAMS.index(stream))) == expected
            assert story.desk.mark(story.cabinet, stream) == story.cabinet.next[stream] - 1
        story.desk.close()
