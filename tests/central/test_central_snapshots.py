"""The present beside a backlog: shown while it is the newest, never kept, never counted as delivered."""

from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central.api.bodies import LatestChange
from central.effects import ChangeKind
from protocols.backhaul.codec import decode_snapshot, encode_snapshot
from protocols.backhaul.messages import ClockEvent, Columns, Layout
from protocols.backhaul.topics import Up, up
from protocols.clock import ClockQuality
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, DeviceId, PointName
from protocols.model.reading import Fault, Quality, Reason, Sample
from tests.central.api_desk import Api
from tests.central.cabinet_double import LEVEL, START_MS, CabinetDouble, Message, taken
from tests.central.desk import Desk


def shown(desk: Desk, device: str) -> list[tuple[object, ...]]:
    """Return what is shown of a device: value, and whether it is only told."""
    return desk.ask("SELECT value, snapshot FROM shown WHERE device = ? ORDER BY point", (device,))


def told(desk: Desk) -> list[tuple[object, bool]]:
    """Return the latest values that the last message gave to the live feed."""
    return [
        (one.value, one.snapshot)
        for change in desk.effects.changes
        if change.kind is ChangeKind.LATEST and isinstance(change.body, LatestChange)
        for one in change.body.readings
    ]


@pytest.fixture
def cabinet(desk: Desk) -> CabinetDouble:
    """A cabinet with a backlog of ten batches, of which the centre has none."""
    double = CabinetDouble()
    desk.deliver(double.hello())
    for n in range(10):
        double.seal([taken(double.lamp(), n, at_ms=1_000 * n)])
    return double


class TestShown:
    """A snapshot is shown while nothing newer is known."""

    def test_it_is_the_latest_and_says_that_it_is_one(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.message(1), cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        assert shown(desk, cabinet.lamp()) == [(9, 1)]
        assert told(desk) == [(9, True)]
        assert desk.ingest.counts.snapshots == 1

    def test_it_is_neither_history_nor_delivered(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        assert desk.values(cabinet.lamp()) == []
        assert desk.mark(cabinet) == 0
        assert (desk.effects.batches, desk.effects.readings, desk.effects.acks) == (0, 0, set())
        assert desk.ask("SELECT count(*), sum(readings) FROM stream WHERE readings > 0") == [(0, None)]

    def test_the_backlog_does_not_overtake_it_and_the_same_reading_takes_its_place(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        for number in range(1, 10):
            desk.deliver(cabinet.message(number))
            assert shown(desk, cabinet.lamp()) == [(9, 1)]
            assert told(desk) == []
        desk.deliver(cabinet.message(10))
        assert shown(desk, cabinet.lamp()) == [(9, 0)]
        assert told(desk) == [(9, False)]
        assert desk.values(cabinet.lamp()) == list(range(10))
        assert desk.ask("SELECT count(*) FROM snapshot") == [(0,)]

    def test_an_older_snapshot_changes_nothing(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 5, at_ms=5_000)))
        assert shown(desk, cabinet.lamp()) == [(9, 1)]
        assert told(desk) == []

    def test_a_snapshot_of_what_has_been_delivered_is_no_longer_news(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(*(cabinet.message(number) for number in range(1, 11)))
        for at_ms in (9_000, 4_000):
            desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), -1, at_ms=at_ms), at_ms=20_000))
            assert shown(desk, cabinet.lamp()) == [(9, 0)]
            assert told(desk) == []

    def test_quality_reason_and_kind_of_value_are_shown(self, desk: Desk, cabinet: CabinetDouble) -> None:
        silent = taken(cabinet.lamp(), Fault(Quality.BAD, Reason.NO_ANSWER), at_ms=9_000)
        failed = taken(cabinet.lamp(1), True, at_ms=9_000, point=PointName("lamp_failure"))
        desk.deliver(cabinet.snapshot(silent, failed))
        found = desk.ask(
            "SELECT value, boolean, quality, reason, utc_ms, snapshot FROM shown ORDER BY device"
        )
        assert found == [(None, 0, 2, "no_answer", START_MS + 9_000, 1), (1, 1, 0, None, START_MS + 9_000, 1)]

    def test_a_part_of_a_device_is_shown_with_the_rest_as_it_was(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        points = (LEVEL, PointName("lamp_failure"))
        whole = Sample(DeviceId(cabinet.lamp(1)), 50, points, (10, False))
        cabinet.outbox.clear()
        cabinet.next[StreamClass.ORDINARY] = 1
        cabinet.seal([whole])
        desk.deliver(cabinet.message(1), cabinet.snapshot(taken(cabinet.lamp(1), 20, at_ms=9_000)))
        assert shown(desk, cabinet.lamp(1)) == [(20, 1), (0, 0)]

    def test_a_restarted_centre_shows_the_same(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.message(1), cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        desk.close()
        again = Desk(desk.path)
        assert shown(again, cabinet.lamp()) == [(9, 1)]
        again.deliver(cabinet.message(2))
        assert shown(again, cabinet.lamp()) == [(9, 1)]
        again.deliver(*(cabinet.message(number) for number in range(3, 11)))
        assert shown(again, cabinet.lamp()) == [(9, 0)]
        again.close()


class TestClocks:
    """Which is newer is told by boot and monotonic time, whatever the clocks say."""

    def test_a_snapshot_from_a_clock_far_ahead_does_not_hide_later_readings(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = START_MS + 10 * 365 * 86_400_000
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        cabinet.utc_offset_ms = START_MS
        cabinet.seal([taken(cabinet.lamp(), 11, at_ms=11_000)])
        desk.deliver(*(cabinet.message(number) for number in range(1, 12)))
        assert shown(desk, cabinet.lamp()) == [(11, 0)]

    @pytest.mark.parametrize("years", [-10, 10])
    def test_a_clock_that_steps_between_two_snapshots_changes_nothing_of_their_order(
        self, desk: Desk, cabinet: CabinetDouble, years: int
    ) -> None:
        first, second = taken(cabinet.lamp(), 8, at_ms=8_000), taken(cabinet.lamp(), 9, at_ms=9_000)
        desk.deliver(cabinet.snapshot(first))
        cabinet.utc_offset_ms = START_MS + years * 365 * 86_400_000
        desk.deliver(cabinet.snapshot(second))
        assert shown(desk, cabinet.lamp()) == [(9, 1)]
        cabinet.utc_offset_ms = START_MS
        desk.deliver(cabinet.snapshot(first))
        assert shown(desk, cabinet.lamp()) == [(9, 1)]

    def test_a_snapshot_from_a_clock_far_behind_is_shown_all_the_same(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(cabinet.message(1))
        cabinet.utc_offset_ms = 0
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        assert shown(desk, cabinet.lamp()) == [(9, 1)]

    def test_without_a_clock_the_hello_ties_it_to_our_time(self, desk: Desk, cabinet: CabinetDouble) -> None:
        cabinet.utc_offset_ms = None
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))  # its hello was at 1000
        assert desk.ask("SELECT utc_ms, stamped, clock FROM shown") == [(START_MS + 8_000, 1, 0)]

    def test_a_clock_that_is_set_puts_right_what_was_told_before(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.utc_offset_ms = None
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        other = CabinetDouble("cab-2")
        other.utc_offset_ms = None
        desk.deliver(other.hello(), other.snapshot(taken(other.lamp(), 9, at_ms=9_000)))
        offset_ms = START_MS + 500
        event = ClockEvent(
            boot=cabinet.boot,
            monotonic_ms=10_000,
            utc_ms=offset_ms + 10_000,
            before_ms=None,
            before=ClockQuality.UNSYNCHRONISED,
            clock=ClockQuality.SYNCHRONISED,
            corrects=True,
        )
        desk.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))
        times = "SELECT device, utc_ms, stamped, clock FROM shown ORDER BY device"
        told_ms = START_MS + 8_000
        assert desk.ask(times) == [
            (cabinet.lamp(), offset_ms + 9_000, 2, 1),
            (other.lamp(), told_ms, 1, 0),
        ]

    def test_the_backlog_of_an_earlier_boot_is_older_whatever_its_monotonic_time(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.boot = "cab-1-boot-2"
        desk.deliver(cabinet.hello(), cabinet.snapshot(taken(cabinet.lamp(), 100, at_ms=5)))
        desk.deliver(*(cabinet.message(number) for number in range(1, 11)))
        assert shown(desk, cabinet.lamp()) == [(100, 1)]
        cabinet.seal([taken(cabinet.lamp(), 101, at_ms=6)])
        desk.deliver(cabinet.message(11))
        assert shown(desk, cabinet.lamp()) == [(101, 0)]

    def test_the_snapshot_of_an_earlier_boot_gives_way_to_the_first_word_of_this_one(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        cabinet.boot = "cab-1-boot-2"
        desk.deliver(cabinet.hello(), cabinet.message(1))
        assert shown(desk, cabinet.lamp()) == [(9, 1)]
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 100, at_ms=5)))
        assert shown(desk, cabinet.lamp()) == [(100, 1)]

    def test_a_reading_of_this_boot_takes_the_place_of_an_earlier_boots_snapshot(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        cabinet.boot = "cab-1-boot-2"
        cabinet.seal([taken(cabinet.lamp(), 100, at_ms=5)], stream=StreamClass.CRITICAL)
        desk.deliver(cabinet.hello(), cabinet.message(1, StreamClass.CRITICAL))
        assert shown(desk, cabinet.lamp()) == [(100, 0)]

    def test_a_snapshot_of_another_boot_than_the_hellos_is_not_shown(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.boot = "cab-1-boot-0"
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        unheard = CabinetDouble("cab-2")
        desk.deliver(unheard.snapshot(taken(unheard.lamp(), 9)))
        assert shown(desk, cabinet.lamp()) == shown(desk, unheard.lamp()) == []
        assert (desk.ingest.counts.ignored, desk.ingest.counts.snapshots) == (2, 0)
        assert desk.ask("SELECT count(*) FROM cabinet") == [(1,)]

    def test_whose_device_it_is_now_is_whose_word_counts(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=9_000)))
        other = CabinetDouble("cab-2")
        (moved, *cabinet.inventory) = cabinet.inventory  # type: ignore[assignment]  # a list will do
        other.inventory = (moved,)
        other.seal([taken(moved.id, 50, at_ms=3)])
        desk.deliver(cabinet.hello(), other.hello(), other.message(1))
        assert shown(desk, moved.id) == [(50, 0)]


STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.integers(0, 60)), max_size=30)


def test_what_is_shown_is_the_newest_of_all_that_came(desk: Desk) -> None:
    """Batches in their order, snapshots of any moment in between: the newest wins, a batch where both are."""
    names = count()

    @settings(max_examples=60)
    @given(steps=STEPS)
    def holds(steps: list[tuple[bool, int, int]]) -> None:
        cabinet = CabinetDouble(f"cab-{next(names)}")
        desk.deliver(cabinet.hello())
        newest, is_snapshot, at_ms = -1, False, 0
        for in_batch, step, moment in steps:
            if in_batch:
                at_ms += step
                desk.deliver(cabinet.message(cabinet.seal([taken(cabinet.lamp(), at_ms, at_ms=at_ms)])))
                newest, is_snapshot = (at_ms, False) if at_ms >= newest else (newest, is_snapshot)
            else:
                desk.deliver(cabinet.snapshot(taken(cabinet.lamp(), moment, at_ms=moment), at_ms=60))
                newest, is_snapshot = (moment, True) if moment > newest else (newest, is_snapshot)
            assert shown(desk, cabinet.lamp()) == ([(newest, is_snapshot)] if newest >= 0 else [])

    holds()


class TestRefusals:
    """What is not acceptable is counted as batches are, and shows nothing."""

    def _refused(self, desk: Desk, *messages: Message) -> dict[str, int]:
        desk.deliver(*messages)
        assert desk.ask("SELECT count(*) FROM shown") == [(0,)]
        assert desk.ingest.counts.snapshots == 0
        return desk.ingest.counts.refused()

    def _changed(self, message: Message, **parts: object) -> Message:
        said = msgspec.structs.replace(decode_snapshot(message.payload), **parts)
        return Message(message.topic, encode_snapshot(said))

    def test_garbage(self, desk: Desk, cabinet: CabinetDouble) -> None:
        good = cabinet.snapshot(taken(cabinet.lamp(), 9))
        broken = bytearray(good.payload)
        broken[-3] ^= 0x10
        messages = [Message(good.topic, bad) for bad in (b"", b"anything", bytes(broken), good.payload[:9])]
        assert self._refused(desk, *messages) == {"damaged": 4}

    def test_an_unknown_version(self, desk: Desk, cabinet: CabinetDouble) -> None:
        message = self._changed(cabinet.snapshot(taken(cabinet.lamp(), 9)), version=2)
        assert self._refused(desk, message) == {"damaged": 1}

    def test_what_happened_after_it_was_made(self, desk: Desk, cabinet: CabinetDouble) -> None:
        message = cabinet.snapshot(taken(cabinet.lamp(), 9, at_ms=10), at_ms=5)
        assert self._refused(desk, message) == {"damaged": 1}

    def test_columns_that_do_not_fit_leave_nothing(self, desk: Desk, cabinet: CabinetDouble) -> None:
        layouts = (Layout(DeviceId(cabinet.lamp()), (LEVEL,)),)
        wrong = Columns(layouts=layouts, layout=(0, 0), at_ms=(0, 0), values=(5,))
        message = self._changed(cabinet.snapshot(taken(cabinet.lamp(), 9)), columns=wrong)
        assert self._refused(desk, message) == {"damaged": 1}

    def test_another_cabinets_topic(self, desk: Desk, cabinet: CabinetDouble) -> None:
        elsewhere = up(CabinetId("cab-2"), Up.NOW)
        message = Message(elsewhere, cabinet.snapshot(taken(cabinet.lamp(), 9)).payload)
        assert self._refused(desk, message) == {"foreign": 1}

    @pytest.mark.parametrize("at_ms", [2**53, -(2**53), 2**62])
    def test_a_moment_that_no_honest_cabinet_reaches(
        self, desk: Desk, cabinet: CabinetDouble, at_ms: int
    ) -> None:
        message = self._changed(cabinet.snapshot(taken(cabinet.lamp(), 9)), base_monotonic_ms=at_ms)
        assert self._refused(desk, message) == {"beyond_bounds": 1}

    def test_a_name_that_cannot_be_a_points(self, desk: Desk, cabinet: CabinetDouble) -> None:
        message = cabinet.snapshot(taken(cabinet.lamp(), 9, point=PointName("../x\n")))
        assert self._refused(desk, message) == {"damaged": 1}

    def test_another_cabinets_device_is_refused_and_the_others_are_shown(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        other = CabinetDouble("cab-2")
        desk.deliver(other.hello())
        both = [taken(other.lamp(), 1), taken(other.lamp(), 2), taken(cabinet.lamp(), 9)]
        desk.deliver(cabinet.snapshot(*both))
        assert shown(desk, other.lamp()) == []
        assert shown(desk, cabinet.lamp()) == [(9, 1)]
        assert desk.ingest.counts.refused() == {"foreign_device": 1}
        assert desk.ask("SELECT device, owner, readings FROM refused_device") == [(other.lamp(), "cab-2", 0)]

    def test_a_device_that_the_hello_did_not_list_is_refused_and_entered_nowhere(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        message = cabinet.snapshot(taken("unheard-of", 9), taken("../etc/passwd\n", 9))
        desk.deliver(message)
        assert desk.ask("SELECT count(*) FROM shown") == [(0,)]
        assert desk.ask("SELECT count(*) FROM device WHERE id LIKE 'unheard%'") == [(0,)]
        assert desk.ingest.counts.refused() == {"unlisted_device": 2}


async def test_the_api_says_which_latest_values_are_only_told(api: Api) -> None:
    cabinet = CabinetDouble()
    cabinet.seal([taken(cabinet.lamp(n), 10, at_ms=10) for n in (0, 1)])
    watcher = api.central.feed.join(None, frozenset({ChangeKind.LATEST}))
    await api.deliver(cabinet.hello(), cabinet.message(1))
    await api.deliver(cabinet.snapshot(taken(cabinet.lamp(), 20, at_ms=20)))
    expected = [(cabinet.lamp(), 20, True), (cabinet.lamp(1), 10, False)]
    for path in (f"/api/v1/cabinets/{cabinet.id}/latest",):
        found = await api.all(path, limit=1)
        assert [(one["device"], one["value"], one["snapshot"]) for one in found] == expected
    (one,) = await api.get(f"/api/v1/devices/{cabinet.lamp()}/latest")
    assert (one["value"], one["snapshot"]) == (20, True)
    history = await api.get(f"/api/v1/devices/{cabinet.lamp()}/points/{LEVEL}/history")
    assert [item["value"] for item in history["items"]] == [10]
    health = await api.get("/api/v1/health")
    assert (health["ingest"]["snapshots"], health["ingest"]["readings"]) == (1, 2)
    api.central.feed.leave(watcher)
    watcher.close()
    events = b"".join([part async for part in watcher.writes()])
    assert events.count(b'"snapshot":true') == 1
