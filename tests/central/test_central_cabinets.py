"""A hello makes the centre's picture of a cabinet what the cabinet says."""

import msgspec
import pytest

from central import contact, policies
from central.api.bodies import Contact
from protocols.backhaul.messages import AlarmEvent, LastEnd, PolicyInForce, StartEvent
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.device import StreamClass
from protocols.model.ids import DeviceId
from tests.central.cabinet_double import START_MS, CabinetDouble, lamp, taken
from tests.central.desk import Desk


def raised(device: str, at_ms: int = START_MS, kind: AlarmType = AlarmType.LAMP_FAILURE) -> Alarm:
    return Alarm(DeviceId(device), kind, at_ms, None, "no light")


def active(desk: Desk) -> list[tuple[object, ...]]:
    return desk.ask("SELECT device, type, raised_ms FROM alarm WHERE cleared_ms IS NULL ORDER BY device")


class TestInventory:
    """What hangs on the lines is what the cabinet lists; what another cabinet lists is not taken from it."""

    def test_devices_groups_and_points_are_stored(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.hello())
        assert desk.ask("SELECT id, kind, line, address, listed FROM device ORDER BY id") == [
            (f"cab-1-lamp-{n}", "lamp", "dali-1", str(n), 1) for n in range(3)
        ]
        assert desk.ask("SELECT count(*) FROM device_group WHERE name = 'street'") == [(3,)]

    def test_a_device_that_is_no_longer_listed_keeps_its_history(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(2), 5)])
        desk.deliver(cabinet.hello(), cabinet.message(1))
        gone = cabinet.lamp(2)
        cabinet.inventory = cabinet.inventory[:2]
        desk.deliver(cabinet.hello())
        assert desk.ask("SELECT listed FROM device WHERE id = ?", (gone,)) == [(0,)]
        assert desk.ask("SELECT count(*) FROM device_group") == [(2,)]
        assert desk.values(gone) == [5]

    def test_another_cabinets_device_is_refused_and_reported(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        thief = CabinetDouble("cab-2", lamps=1)
        thief.inventory += (lamp(cabinet.lamp(0)),)
        desk.deliver(cabinet.hello(), thief.hello())
        assert desk.ask("SELECT cabinet FROM device WHERE id = ?", (cabinet.lamp(0),)) == [("cab-1",)]
        assert desk.ask("SELECT cabinet, device, owner FROM refused_device") == [
            ("cab-2", cabinet.lamp(0), "cab-1")
        ]
        assert desk.ingest.counts.refused() == {"foreign_device": 1}

    def test_readings_of_another_cabinets_device_are_counted_and_the_rest_is_stored(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        thief = CabinetDouble("cab-2", lamps=1)
        thief.seal([taken(cabinet.lamp(0), 66), taken(thief.lamp(0), 7), taken(cabinet.lamp(0), 67)])
        desk.deliver(cabinet.hello(), thief.hello(), thief.message(1))
        assert desk.values(cabinet.lamp(0)) == []
        assert desk.values(thief.lamp(0)) == [7]
        assert desk.mark(thief) == 1
        assert desk.ask("SELECT device, readings FROM refused_device") == [(cabinet.lamp(0), 2)]

    def test_a_device_moves_once_its_former_cabinet_no_longer_lists_it(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        heir = CabinetDouble("cab-2", lamps=0)
        heir.inventory = (lamp(cabinet.lamp(0)),)
        desk.deliver(cabinet.hello())
        cabinet.inventory = cabinet.inventory[1:]
        desk.deliver(cabinet.hello(), heir.hello())
        assert desk.ask("SELECT cabinet, listed FROM device WHERE id = 'cab-1-lamp-0'") == [("cab-2", 1)]

    def test_readings_before_any_hello_are_kept_under_the_cabinet(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(cabinet.lamp(), 5)])
        desk.deliver(cabinet.message(1))
        assert desk.ask("SELECT cabinet, listed, kind FROM device") == [("cab-1", 0, None)]


class TestAlarms:
    """One alarm per (device, type): raised, repeated, cleared."""

    def test_a_raised_alarm_lasts_until_it_is_cleared(self, desk: Desk, cabinet: CabinetDouble) -> None:
        device = DeviceId(cabinet.lamp())
        cabinet.seal_event(AlarmEvent(device, AlarmType.LAMP_FAILURE, START_MS, None, "no light"))
        cabinet.seal_event(AlarmEvent(device, AlarmType.LAMP_FAILURE, START_MS, START_MS + 9, "well again"))
        desk.deliver(cabinet.message(1, StreamClass.EVENTS))
        assert active(desk) == [(device, "lamp_failure", START_MS)]
        desk.deliver(cabinet.message(2, StreamClass.EVENTS))
        assert desk.ask("SELECT cleared_ms, text FROM alarm") == [(START_MS + 9, "well again")]

    def test_a_repeat_updates_the_alarm_and_keeps_when_it_was_first_raised(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        device = DeviceId(cabinet.lamp())
        for late in (0, 50):
            cabinet.seal_event(AlarmEvent(device, AlarmType.LAMP_FAILURE, START_MS + late, None, f"t{late}"))
        desk.deliver(cabinet.message(1, StreamClass.EVENTS), cabinet.message(2, StreamClass.EVENTS))
        assert desk.ask("SELECT raised_ms, repeated_ms, text FROM alarm") == [
            (START_MS, START_MS + 50, "t50")
        ]

    def test_a_new_occurrence_after_the_end_is_a_new_alarm(self, desk: Desk, cabinet: CabinetDouble) -> None:
        device = DeviceId(cabinet.lamp())
        for raised_ms, cleared_ms in ((1, 2), (3, None)):
            cabinet.seal_event(AlarmEvent(device, AlarmType.LINE_DOWN, raised_ms, cleared_ms, ""))
        desk.deliver(cabinet.message(1, StreamClass.EVENTS), cabinet.message(2, StreamClass.EVENTS))
        assert desk.ask("SELECT raised_ms, cleared_ms FROM alarm ORDER BY id") == [(1, 2), (3, None)]

    def test_a_hello_raises_what_it_lists_and_clears_what_it_does_not(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        cabinet.alarms = (raised(cabinet.lamp(0)), raised(cabinet.lamp(1)))
        desk.deliver(cabinet.hello())
        cabinet.alarms = (raised(cabinet.lamp(1)), raised(cabinet.lamp(2), START_MS + 5))
        desk.clock.pass_s(1)
        desk.deliver(cabinet.hello())
        assert active(desk) == [
            (cabinet.lamp(1), "lamp_failure", START_MS),
            (cabinet.lamp(2), "lamp_failure", START_MS + 5),
        ]
        assert desk.ask("SELECT cleared_ms FROM alarm WHERE device = ?", (cabinet.lamp(0),)) == [
            (START_MS + 1_000,)
        ]

    def test_events_of_a_backlog_do_not_undo_what_a_later_hello_said(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        device = DeviceId(cabinet.lamp())
        cabinet.seal_event(AlarmEvent(device, AlarmType.LAMP_FAILURE, START_MS, None, ""))
        cabinet.seal_event(AlarmEvent(device, AlarmType.LAMP_FAILURE, START_MS, START_MS + 5, ""))
        cabinet.alarms = (raised(device, START_MS + 60),)
        desk.deliver(cabinet.hello(), *cabinet.waiting())
        assert active(desk) == [(device, "lamp_failure", START_MS + 60)]

    def test_another_cabinets_alarms_are_left_alone(self, desk: Desk, cabinet: CabinetDouble) -> None:
        other = CabinetDouble("cab-2")
        other.alarms = (raised(other.lamp()),)
        desk.deliver(other.hello(), cabinet.hello())
        assert len(active(desk)) == 1


class TestContact:
    """Presence is what a cabinet says, what its last will says, and the age of what arrives."""

    def _contact(self, desk: Desk) -> Contact:
        found = contact.find(desk.db, "cab-1")
        assert found is not None
        return contact.contact(found, desk.clock.now().utc_ms)

    def test_it_is_connected_after_its_hello(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.hello())
        assert self._contact(desk) is Contact.CONNECTED

    def test_its_last_will_takes_it_off(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.hello(), cabinet.presence(online=False))
        assert self._contact(desk) is Contact.OFFLINE

    def test_what_comes_after_a_late_last_will_proves_it_wrong(
        self, desk: Desk, cabinet: CabinetDouble
    ) -> None:
        desk.deliver(cabinet.hello(), cabinet.presence(online=False))
        desk.clock.pass_s(1)
        cabinet.seal([taken(cabinet.lamp(), 1)])
        desk.deliver(cabinet.message(1))
        assert self._contact(desk) is Contact.CONNECTED

    def test_it_is_silent_when_nothing_has_come_for_a_while(self, desk: Desk, cabinet: CabinetDouble) -> None:
        desk.deliver(cabinet.hello())
        desk.clock.pass_s(601)
        assert self._contact(desk) is Contact.SILENT


def test_a_start_is_recorded_with_how_the_run_before_ended(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.seal_event(StartEvent("boot-2", "0.2.0", LastEnd.CRASH, START_MS))
    desk.deliver(cabinet.hello(), cabinet.message(1, StreamClass.EVENTS))
    assert desk.ask("SELECT last_end, agent_version, started_ms FROM cabinet") == [
        ("crash", "0.2.0", START_MS)
    ]


def test_what_a_cabinet_goes_by_is_what_its_hello_says(desk: Desk, cabinet: CabinetDouble) -> None:
    cabinet.policies = (PolicyInForce("lighting", 12, "aa"),)
    desk.deliver(cabinet.hello())
    (reported,) = policies.read(desk.db, "cab-1", START_MS).reported
    assert (reported.version, reported.hash) == (12, "aa")
    cabinet.policies = ()
    desk.deliver(cabinet.hello())
    assert policies.read(desk.db, "cab-1", START_MS).reported == []


@pytest.mark.parametrize("field", [3, 5, 6, 9])
def test_a_hello_of_nonsense_is_refused_and_changes_nothing(
    desk: Desk, cabinet: CabinetDouble, field: int
) -> None:
    message = cabinet.hello()
    said = msgspec.msgpack.decode(message.payload)
    said[field] = {"no": "such"}
    desk.deliver(msgspec.structs.replace(message, payload=msgspec.msgpack.encode(said)))
    assert desk.ingest.counts.refused() == {"damaged": 1}
    assert desk.ask("SELECT count(*) FROM cabinet") == [(0,)]
