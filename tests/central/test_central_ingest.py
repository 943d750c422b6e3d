"""What cabinets say is committed once, in order, and nothing else is."""

import math

import msgspec
import pytest
import structlog

from protocols.backhaul.codec import frame_batch, seal, unseal
from protocols.backhaul.messages import Columns, Layout
from protocols.backhaul.topics import Up, up
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, DeviceId
from protocols.model.reading import Fault, Quality, Reason, Sample
from tests.central.cabinet_double import LEVEL, START_MS, CabinetDouble, Message, hash_of, taken
from tests.central.desk import Desk


def test_a_batch_is_committed_and_its_mark_acknowledged_with_its_hash(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal([taken(cabinet.lamp(), 40.0)])
    expected = hash_of(cabinet, 1)
    desk.deliver(cabinet.hello(), cabinet.message(1))
    assert desk.effects.acks == {(cabinet.id, cabinet.epoch)}
    mark = next(m for m in desk.answer(cabinet).marks if m.stream is StreamClass.ORDINARY)
    assert (mark.mark, mark.hash) == (1, expected)
    assert desk.values(cabinet.lamp()) == [40.0]


def test_a_repeated_batch_is_stored_once_and_acknowledged_again(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.seal([taken(cabinet.lamp(), 1.0)])
    desk.deliver(cabinet.message(1), cabinet.message(1))
    assert desk.values(cabinet.lamp()) == [1.0]
    assert desk.effects.acks == {(cabinet.id, cabinet.epoch)}


def test_a_batch_before_its_turn_is_not_stored_and_the_mark_is_repeated(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    for level in range(3):
        cabinet.seal([taken(cabinet.lamp(), level)])
    desk.deliver(cabinet.message(1), cabinet.message(3))
    assert desk.mark(cabinet) == 1
    assert desk.effects.acks == {(cabinet.id, cabinet.epoch)}
    desk.deliver(cabinet.message(2), cabinet.message(3))
    assert desk.values(cabinet.lamp()) == [0, 1, 2]


def test_streams_of_a_cabinet_have_marks_of_their_own(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.seal([taken(cabinet.lamp(), 1)])
    cabinet.seal([taken(cabinet.lamp(1), 2)], stream=StreamClass.BULK)
    desk.deliver(cabinet.message(1, StreamClass.BULK))
    assert (desk.mark(cabinet), desk.mark(cabinet, StreamClass.BULK)) == (0, 1)


def test_a_new_epoch_begins_at_mark_zero_and_leaves_the_old_one_alone(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    cabinet.seal([taken(cabinet.lamp(), 1)])
    renewed = CabinetDouble(epoch=cabinet.epoch + 1)
    renewed.seal([taken(cabinet.lamp(), 2)])
    desk.deliver(cabinet.message(1), renewed.message(1))
    assert desk.values(cabinet.lamp()) == [1, 2]
    assert (desk.mark(cabinet), desk.mark(renewed)) == (1, 1)


def test_a_hello_of_a_new_epoch_is_answered_with_mark_zero_for_each_stream(
    desk: Desk, cabinet: CabinetDouble
) -> None:
    desk.deliver(cabinet.hello())
    assert desk.effects.acks == {(cabinet.id, cabinet.epoch)}
    assert [(m.stream, m.mark) for m in desk.answer(cabinet).marks] == [(s, 0) for s in StreamClass]


class TestRefusals:
    """What is not acceptable is counted by reason and changes nothing."""

    def _refused(self, desk: Desk, message: Message) -> dict[str, int]:
        desk.deliver(message)
        assert desk.ask("SELECT count(*) FROM reading") == [(0,)]
        assert desk.ask("SELECT count(*) FROM stream") == [(0,)]
        assert not desk.effects.acks
        return desk.ingest.counts.refused()

    def test_damaged_bytes(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        good = cabinet.message(1)
        broken = bytearray(good.payload)
        broken[-3] ^= 0x10
        assert self._refused(desk, Message(good.topic, bytes(broken))) == {"damaged": 1}

    def test_a_truncated_batch(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        good = cabinet.message(1)
        assert self._refused(desk, Message(good.topic, good.payload[:5])) == {"damaged": 1}

    def test_an_unknown_version(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        later = msgspec.structs.replace(unseal(cabinet.outbox[StreamClass.ORDINARY, 1]), version=2)
        message = Message(cabinet.message(1).topic, frame_batch(1, seal(later)))
        assert self._refused(desk, message) == {"damaged": 1}

    def test_a_foreign_cabinets_batch(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        elsewhere = up(CabinetId("cab-2"), Up.BATCH, StreamClass.ORDINARY)
        assert self._refused(desk, Message(elsewhere, cabinet.message(1).payload)) == {"foreign": 1}

    def test_a_foreign_cabinets_hello(self, desk: Desk, cabinet: CabinetDouble) -> None:
        elsewhere = up(CabinetId("cab-2"), Up.HELLO)
        assert self._refused(desk, Message(elsewhere, cabinet.hello().payload)) == {"foreign": 1}

    def test_another_stream_than_the_topics(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        elsewhere = up(cabinet.id, Up.BATCH, StreamClass.BULK)
        assert self._refused(desk, Message(elsewhere, cabinet.message(1).payload)) == {"wrong_stream": 1}

    @pytest.mark.parametrize("topic", ["luciole/1/up/99/cab-1/hello", "luciole/1/up", "nonsense", ""])
    def test_a_topic_that_is_none_of_ours(self, desk: Desk, topic: str) -> None:
        assert self._refused(desk, Message(topic, b"")) == {"topic": 1}

    @pytest.mark.parametrize(("epoch", "number"), [(2**63, 1), (-1, 1), (5, 2**60), (5, 0)])
    def test_a_number_that_no_honest_cabinet_reaches(
        self, desk: Desk, cabinet: CabinetDouble, epoch: int, number: int
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        batch = unseal(cabinet.outbox[StreamClass.ORDINARY, 1])
        wild = seal(msgspec.structs.replace(batch, epoch=epoch, number=number))
        message = Message(cabinet.message(1).topic, frame_batch(0, wild))
        assert self._refused(desk, message) == {"beyond_bounds": 1}

    def test_a_floor_above_the_batch_itself(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        wild = frame_batch(9, cabinet.outbox[StreamClass.ORDINARY, 1])
        assert self._refused(desk, Message(cabinet.message(1).topic, wild)) == {"beyond_bounds": 1}

    def test_each_sender_is_logged_once_for_a_reason(
        self, desk: Desk, capsys: pytest.CaptureFixture[str]
    ) -> None:
        topic = up(CabinetId("cab-1"), Up.HELLO)
        desk.deliver(*[Message(topic, b"\xc1")] * 5)
        assert desk.ingest.counts.refused() == {"damaged": 5}
        assert capsys.readouterr().out.count("refused") == 1


class TestValues:
    """A value is stored as it is."""

    @pytest.mark.parametrize("value", [1, 1.0, 0.1, True, False, "on", None, -(2**63), 2**63 - 1])
    def test_kinds_of_values_can_be_told_apart(
        self, desk: Desk, cabinet: CabinetDouble, value: float | bool | str | None
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), value)])
        desk.deliver(cabinet.message(1))
        ((stored, boolean),) = desk.ask("SELECT value, boolean FROM reading")
        assert (stored, type(stored)) == (
            (int(value), int) if value is True or value is False else (value, type(value))
        )
        assert bool(boolean) is isinstance(value, bool)

    def test_an_integer_beyond_the_stores_becomes_a_number(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 2**63)])
        desk.deliver(cabinet.message(1))
        assert desk.values(cabinet.lamp()) == [float(2**63)]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_non_finite_number_is_bad_and_no_value(
        self, desk: Desk, cabinet: CabinetDouble, value: float
    ) -> None:
        cabinet.seal([Sample(DeviceId(cabinet.lamp()), 0, (LEVEL,), (value,))])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT value, quality, reason FROM reading") == [(None, 2, "not_a_number")]

    def test_quality_and_reason_are_kept(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), Fault(Quality.BAD, Reason.NO_ANSWER))])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT value, quality, reason FROM reading") == [(None, 2, "no_answer")]


class TestTimes:
    """A reading's time is the cabinet's, if it has one."""

    def test_time_is_monotonic_plus_offset(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=1_234)])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT utc_ms, stamped, clock FROM reading") == [(START_MS + 1_234, 0, 2)]

    def test_without_a_clock_the_hello_of_the_same_boot_ties_its_times_to_ours(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = None
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        desk.deliver(cabinet.hello())  # said at monotonic 1000, heard at START_MS
        desk.clock.pass_s(60)
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT utc_ms, stamped, clock FROM reading") == [(START_MS - 500, 1, 0)]

    def test_without_a_clock_and_a_hello_the_time_of_arrival_stands_and_is_marked(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = None
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=500)])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT utc_ms, stamped FROM reading") == [(START_MS, 1)]

    def test_absurd_times_are_stored_within_what_can_be_written(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = 2**62
        cabinet.seal([taken(cabinet.lamp(), 1)])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT utc_ms FROM reading") == [(253_402_300_799_999,)]


class TestLatest:
    """The latest value is the last that was taken."""

    def _latest(self, desk: Desk) -> object:
        return desk.ask("SELECT value FROM latest")[0][0]

    def test_it_follows_the_stream_even_when_the_clock_steps_back(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=90_000)])
        cabinet.seal([taken(cabinet.lamp(), 2, at_ms=10)])
        desk.deliver(cabinet.message(1), cabinet.message(2))
        assert self._latest(desk) == 2

    def test_a_salvaged_backlog_does_not_overwrite_what_is_newer(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        renewed = CabinetDouble(epoch=cabinet.epoch + 1)
        renewed.seal([taken(cabinet.lamp(), 2, at_ms=50_000)])
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=10)])
        desk.deliver(renewed.message(1), cabinet.message(1))
        assert self._latest(desk) == 2

    def test_a_value_from_a_clock_far_ahead_gives_way(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(cabinet.lamp(), 1, at_ms=10**10)])
        renewed = CabinetDouble(epoch=cabinet.epoch + 1)
        renewed.seal([taken(cabinet.lamp(), 2, at_ms=10)])
        desk.deliver(cabinet.message(1), renewed.message(1))
        assert self._latest(desk) == 2


class TestNonsense:
    """A batch that arrived whole and says nonsense is set aside, and its stream goes on."""

    def _nonsense(self, cabinet: CabinetDouble) -> Message:
        cabinet.seal([taken(cabinet.lamp(), 1)])
        batch = unseal(cabinet.outbox[StreamClass.ORDINARY, 1])
        layouts = (Layout(DeviceId(cabinet.lamp()), (LEVEL,)),)
        wrong = Columns(layouts=layouts, layout=(0, 0), at_ms=(1, 2), values=(5,))
        sealed = seal(msgspec.structs.replace(batch, columns=wrong))
        cabinet.outbox[StreamClass.ORDINARY, 1] = sealed
        return cabinet.message(1)

    def test_its_bytes_are_kept_and_it_shows_as_a_gap(self, desk: Desk, cabinet: CabinetDouble) -> None:
        message = self._nonsense(cabinet)
        desk.deliver(message)
        sealed = cabinet.outbox[StreamClass.ORDINARY, 1]
        assert desk.mark(cabinet) == 1
        assert desk.ask("SELECT sealed FROM unreadable_batch") == [(sealed,)]
        assert desk.ask("SELECT cause, first, last FROM gap") == [("corrupt", 1, 1)]
        assert desk.ask("SELECT count(*) FROM reading") == [(0,)]
        assert desk.ingest.counts.refused() == {"unreadable": 1}

    def test_the_next_batch_follows(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(self._nonsense(cabinet))
        cabinet.seal([taken(cabinet.lamp(), 2)])
        desk.deliver(cabinet.message(2))
        assert desk.values(cabinet.lamp()) == [2]

    def test_a_device_name_that_cannot_be_one(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken("../etc/passwd\n", 1)])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT count(*) FROM device") == [(0,)]
        assert desk.ingest.counts.refused() == {"unreadable": 1}


def test_a_cloned_card_is_noticed_by_the_bytes_of_its_batch(desk: Desk, cabinet: CabinetDouble) -> None:
    clone = CabinetDouble(epoch=cabinet.epoch)
    cabinet.seal([taken(cabinet.lamp(), 1)])
    clone.seal([taken(cabinet.lamp(), 99)])
    with structlog.testing.capture_logs() as logs:
        desk.deliver(cabinet.message(1), clone.message(1), clone.message(1))
    assert desk.values(cabinet.lamp()) == [1]
    assert desk.ingest.counts.conflicting == 2
    assert [(one["event"], one["sender"]) for one in logs] == [("another_batch_of_that_number", cabinet.id)]


def test_a_hello_that_is_larger_than_any_cabinet_is_refused(desk: Desk, cabinet: CabinetDouble) -> None:
    said = msgspec.msgpack.decode(cabinet.hello().payload)
    said[9] = said[9] * 4_000
    desk.deliver(Message(cabinet.hello().topic, msgspec.msgpack.encode(said)))
    assert desk.ingest.counts.refused() == {"beyond_bounds": 1}
