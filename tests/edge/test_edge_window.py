"""The window: whatever is lost, repeated, shed or acknowledged, everything goes on in order, never too much."""

from collections import defaultdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge.outbox.store import Fetched, Sealed
from edge.window import HOLD_BOUND_S, PATIENCE_BOUND_S, WINDOW, Wanted, Window
from protocols.backhaul.messages import StreamHead, StreamMark
from protocols.model.device import StreamClass
from tests.edge.bench import BULK, EVENTS, ORDINARY

STREAMS = st.sampled_from([EVENTS, ORDINARY, BULK])
SILENCE_S = 3.0


def batch(stream: StreamClass, number: int) -> Sealed:
    return Sealed(stream, number, f"{stream}/{number}".encode())


class WindowMachine(RuleBasedStateMachine):
    """An outbox that holds, a wire that loses, and a centre that commits mark + 1 and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.window = Window(SILENCE_S)
        self.next = dict.fromkeys(StreamClass, 1)
        self.floor = dict.fromkeys(StreamClass, 1)
        self.centre = dict.fromkeys(StreamClass, 0)
        self.committed: dict[StreamClass, list[int]] = defaultdict(list)
        self.wire: list[tuple[Sealed, int]] = []
        self.reading: tuple[Wanted, Fetched] | None = None
        self.receive_maximum = WINDOW

    @initialize(maximum=st.integers(1, 30), backlog=st.integers(0, 60), shed=st.integers(0, 20))
    def start(self, maximum: int, backlog: int, shed: int) -> None:
        self.receive_maximum = maximum
        self.next[ORDINARY] = backlog + 1
        self.floor[ORDINARY] = min(shed, backlog) + 1
        self.window.learn(
            StreamHead(stream, self.next[stream], self.floor[stream], 0) for stream in StreamClass
        )

    @rule(stream=STREAMS, count=st.integers(1, 30))
    def commit(self, stream: StreamClass, count: int) -> None:
        batches = [batch(stream, self.next[stream] + n) for n in range(count)]
        self.next[stream] += count
        self.window.committed(batches)
        self.window.gone(self.floor)

    @rule(stream=STREAMS, part=st.floats(0, 1))
    def shed(self, stream: StreamClass, part: float) -> None:
        self.floor[stream] += int(part * (self.next[stream] - self.floor[stream]))
        self.window.gone(self.floor)

    @rule()
    def send_one(self) -> None:
        match self.window.next(self.receive_maximum):
            case Wanted() as wanted:
                self.fetched(wanted)
            case Sealed() as found:
                self.window.sent(found, self.now_s)
                self.wire.append((found, self.window.ways[found.stream].floor))

    def fetched(self, wanted: Wanted) -> None:
        self.window.found(wanted, self.fetch(wanted))

    def fetch(self, wanted: Wanted) -> Fetched:
        first = max(wanted.first, self.floor[wanted.stream])
        last = min(self.next[wanted.stream], first + wanted.limit)
        return Fetched([batch(wanted.stream, n) for n in range(first, last)], self.floor[wanted.stream])

    @precondition(lambda self: self.reading is None)
    @rule()
    def begin_to_read(self) -> None:
        wanted = self.window.next(self.receive_maximum)
        if isinstance(wanted, Wanted):
            self.reading = (wanted, self.fetch(wanted))

    @precondition(lambda self: self.reading is not None)
    @rule()
    def end_to_read(self) -> None:
        assert self.reading is not None
        self.window.found(*self.reading)
        self.reading = None

    @rule(keep=st.booleans())
    def arrive(self, keep: bool) -> None:
        if self.wire:
            sent, floor = self.wire.pop(0)
            if keep:
                self.take(sent, floor)

    def take(self, sent: Sealed, floor: int) -> None:
        mark = max(self.centre[sent.stream], floor - 1)
        if sent.number == mark + 1:
            self.centre[sent.stream] = sent.number
            self.committed[sent.stream].append(sent.number)

    @rule()
    def acknowledge(self) -> None:
        marks = [StreamMark(stream, mark) for stream, mark in self.centre.items()]
        assert not self.window.beyond(marks)
        self.window.acknowledged(marks, self.now_s, anew=False)
        for stream, mark in self.centre.items():
            self.floor[stream] = max(self.floor[stream], mark + 1)

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        if self.window.silent_for_too_long(self.now_s):
            self.reconnect()

    def reconnect(self) -> None:
        self.wire.clear()
        self.window.rewind(self.now_s)
        marks = [StreamMark(stream, mark) for stream, mark in self.centre.items()]
        self.window.acknowledged(marks, self.now_s, anew=True)

    @rule()
    def be_stuck(self) -> None:
        self.window.hold(self.now_s)
        assert not self.window.silent_for_too_long(self.now_s)

    @rule()
    def lose_the_connection(self) -> None:
        self.reconnect()

    @invariant()
    def never_more_on_its_way_than_allowed(self) -> None:
        assert self.window.in_flight <= min(WINDOW, self.receive_maximum)

    @invariant()
    def numbers_only_grow_and_stay_in_order(self) -> None:
        for stream, way in self.window.ways.items():
            assert way.mark <= way.sent <= way.committed == self.next[stream] - 1
            assert [one.number for one in way.ready] == list(
                range(way.sent + 1, way.sent + 1 + len(way.ready))
            )
            assert len(way.ready) <= WINDOW
            assert self.committed[stream] == sorted(set(self.committed[stream]))

    @invariant()
    def it_is_behind_while_more_waits_than_a_window_holds(self) -> None:
        waiting = sum(way.committed - way.mark for way in self.window.ways.values())
        assert self.window.behind == (waiting > WINDOW)
        assert not (self.window.behind and self.window.drained)

    def teardown(self) -> None:
        """In the end everything that was not shed arrives, once and in order."""
        if self.reading is not None:
            self.window.found(*self.reading)
        self.reconnect()
        for _ in range(2000):
            coming = self.window.next(self.receive_maximum)
            if coming is None and self.window.drained:
                break
            if coming is None:
                self.acknowledge()
            elif isinstance(coming, Wanted):
                self.fetched(coming)
            else:
                self.window.sent(coming, self.now_s)
                self.take(coming, self.window.ways[coming.stream].floor)
        assert self.window.drained
        for stream in StreamClass:
            assert max(self.centre[stream], self.floor[stream] - 1) == self.next[stream] - 1


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def filled(**counts: int) -> Window:
    window = Window(SILENCE_S)
    for name, count in counts.items():
        stream = StreamClass[name.upper()]
        window.committed(batch(stream, n) for n in range(1, count + 1))
    return window


def send(window: Window, now_s: float = 0.0, receive_maximum: int = WINDOW) -> list[Sealed]:
    found = []
    while isinstance(coming := window.next(receive_maximum), Sealed):
        window.sent(coming, now_s)
        found.append(coming)
    return found


def test_events_go_first_and_within_a_stream_the_oldest() -> None:
    window = filled(bulk=2, events=2, ordinary=1)
    assert [(one.stream, one.number) for one in send(window)] == [
        (EVENTS, 1),
        (EVENTS, 2),
        (ORDINARY, 1),
        (BULK, 1),
        (BULK, 2),
    ]


def test_a_window_is_no_larger_than_the_broker_allows() -> None:
    assert len(send(filled(ordinary=30), receive_maximum=5)) == 5


def test_what_is_stuck_on_its_way_is_not_the_centre_s_silence() -> None:
    window = filled(ordinary=1)
    send(window, 0.0)
    for second in range(1, 60):
        window.hold(float(second))
        assert not window.silent_for_too_long(float(second) + SILENCE_S - 0.1)
    assert window.silent_for_too_long(59.0 + SILENCE_S)


def test_a_way_that_always_seems_stuck_does_not_hide_for_ever_that_something_is_lost() -> None:
    window = filled(ordinary=1)
    send(window, 0.0)
    silent = []
    for second in range(100):
        window.hold(float(second))
        silent.append(window.silent_for_too_long(float(second)))
    assert silent.index(True) == HOLD_BOUND_S + SILENCE_S


def test_what_was_salvaged_goes_before_the_present_however_little_it_is() -> None:
    window = filled(ordinary=2)
    behind = [window.behind]
    for growing in (False, True):
        window.learn([StreamHead(ORDINARY, 3, 1, 0)], growing=growing)
        behind.append(window.behind)
    assert behind == [False, True, False]


def test_a_lost_reading_is_noticed_although_events_go_through() -> None:
    window = filled(ordinary=1)
    send(window, 0.0)
    for second in range(1, 4):
        window.committed([batch(EVENTS, second)])
        send(window, float(second))
        window.acknowledged([StreamMark(EVENTS, second)], float(second), anew=False)
    assert window.silent_for_too_long(3.0)
    window.rewind(3.0)
    assert window.next(WINDOW) == Wanted(ORDINARY, 1, WINDOW)


def test_a_centre_that_stays_silent_is_asked_less_and_less_often() -> None:
    window = filled(ordinary=1)
    now_s, pauses = 0.0, []
    for _ in range(6):
        window.sent(batch(ORDINARY, 1), now_s) if window.ways[ORDINARY].ready else None
        window.found(Wanted(ORDINARY, 1, 1), Fetched([batch(ORDINARY, 1)], 1))
        send(window, now_s)
        since_s = now_s
        while not window.silent_for_too_long(now_s):
            now_s += 1.0
        pauses.append(now_s - since_s)
        window.rewind(now_s)
    assert pauses == [3.0, 6.0, 12.0, 24.0, PATIENCE_BOUND_S, PATIENCE_BOUND_S]


def test_nothing_that_is_committed_while_the_outbox_is_read_is_skipped() -> None:
    """All that was wanted had been shed, and a new batch was committed before the answer was looked at."""
    window = Window(SILENCE_S)
    window.learn([StreamHead(ORDINARY, 4, 1, 0)])
    wanted = window.next(WINDOW)
    assert isinstance(wanted, Wanted)
    window.committed([batch(ORDINARY, 4)])
    window.found(wanted, Fetched([], 4))
    assert not window.drained
    assert window.next(WINDOW) == Wanted(ORDINARY, 4, WINDOW)


def test_what_was_read_before_everything_is_to_be_sent_again_is_not_taken_for_its_beginning() -> None:
    window = filled(ordinary=30)
    send(window, receive_maximum=20)
    window.acknowledged([StreamMark(ORDINARY, 5)], 0.0, anew=False)
    wanted = window.next(20)
    assert wanted == Wanted(ORDINARY, 21, 5)
    window.rewind(1.0)
    assert isinstance(wanted, Wanted)
    window.found(wanted, Fetched([batch(ORDINARY, n) for n in range(21, 26)], 6))
    assert window.next(20) == Wanted(ORDINARY, 6, 20)


def test_a_late_word_spares_what_was_to_be_sent_again() -> None:
    window = filled(ordinary=5)
    send(window)
    window.rewind(1.0)
    window.found(Wanted(ORDINARY, 1, 5), Fetched([batch(ORDINARY, n) for n in range(1, 6)], 1))
    window.acknowledged([StreamMark(ORDINARY, 3)], 1.0, anew=False)
    assert window.next(WINDOW) == Wanted(ORDINARY, 4, WINDOW)


def test_a_centre_that_claims_what_was_never_made_is_noticed() -> None:
    window = filled(ordinary=3)
    assert not window.beyond([StreamMark(ORDINARY, 3)])
    assert window.beyond([StreamMark(ORDINARY, 4)])


def test_a_word_that_says_nothing_new_advances_nothing() -> None:
    window = Window(SILENCE_S)
    window.committed([batch(ORDINARY, number) for number in range(1, 6)])
    assert window.advances([StreamMark(ORDINARY, 2), StreamMark(BULK, 0)])
    window.acknowledged([StreamMark(ORDINARY, 2)], 0.0, anew=True)
    assert not window.advances([StreamMark(ORDINARY, 2), StreamMark(BULK, 0)])
    assert not window.advances([StreamMark(ORDINARY, 1)])
    assert window.advances([StreamMark(BULK, 0), StreamMark(ORDINARY, 3)])


def test_a_centre_that_has_less_than_it_said_has_gone_back() -> None:
    window = Window(SILENCE_S)
    window.committed([batch(ORDINARY, number) for number in range(1, 10)])
    window.acknowledged([StreamMark(ORDINARY, 5)], 0.0, anew=True)
    assert not window.went_back([StreamMark(ORDINARY, 5), StreamMark(BULK, 0)])
    assert window.went_back([StreamMark(ORDINARY, 4)])
    window.gone({ORDINARY: 9})
    assert not window.went_back([StreamMark(ORDINARY, 5)]), "what was shed it cannot have"
    window.acknowledged([StreamMark(ORDINARY, 3)], 0.0, anew=True)
    assert not window.went_back([StreamMark(ORDINARY, 3)])
