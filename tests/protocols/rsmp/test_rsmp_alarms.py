"""Alarms and the outgoing buffer (core 3.2.2, Alarm messages, Communication disruption)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from protocols.errors import LocalProtocolError
from protocols.rsmp import messages as m
from protocols.rsmp.alarms import NEXT, SUSPENDED_NEXT, AlarmKey, AlarmRecord, AlarmState, AlarmTable, Change
from protocols.rsmp.exchange import NEED_DATA, NotAcknowledged
from protocols.rsmp.messages import Alarm, AlarmEvent, Quality
from protocols.rsmp.outgoing import MIN_BUFFER, OutgoingBuffer
from protocols.rsmp.site_role import Site
from protocols.rsmp.site_terms import HEALTHY, AlarmChanged
from tests.protocols.rsmp.ends import (
    ALARMS,
    DETECTOR,
    DETECTOR_FAULT,
    MAIN,
    START,
    Ends,
    identities,
    settings,
)

KEY = AlarmKey(MAIN, "A0001")
A, I = "Active", "inActive"  # noqa: E741
Y, N = "Acknowledged", "notAcknowledged"


def order(event: AlarmEvent, code: str = "A0001", component: str = MAIN) -> Alarm:
    at = m.stamp(0) if event is AlarmEvent.ACKNOWLEDGE else UNSET
    return Alarm(component=component, code=code, event=event, at=at)


def told(ends: Ends) -> list[tuple[str, object, object, object]]:
    """Return what the supervisor was told of A0001."""
    return [
        (one.event, one.activity, one.ack, one.suspension)
        for one in ends.heard()
        if isinstance(one, Alarm) and one.code == "A0001"
    ]


# --- the table ---


@given(st.lists(st.sampled_from(Change), max_size=20))
def test_an_alarm_goes_by_the_table_and_by_nothing_else(changes: list[Change]) -> None:
    table = AlarmTable(ALARMS)
    state, suspended = AlarmState.INACTIVE, False
    for change in changes:
        event = table.change(KEY, change, 1)
        expected = NEXT[state].get(change)
        moved = SUSPENDED_NEXT[suspended].get(change)
        assert (event is None) is (expected is None and moved is None)
        state, suspended = expected or state, suspended if moved is None else moved
        alarm = table.get(KEY)
        assert (AlarmState[alarm.state], alarm.suspended) == (state, suspended)
        assert alarm.active is (state in {AlarmState.UNACKNOWLEDGED, AlarmState.ACKNOWLEDGED})


def test_the_table_is_the_standards() -> None:
    issue, end, acknowledge = Change.ISSUE, Change.END, Change.ACKNOWLEDGE
    walks = {
        (issue,): (A, N),
        (issue, acknowledge): (A, Y),
        (issue, end): (I, N),
        (issue, end, acknowledge): (I, Y),
        (issue, end, issue): (A, N),
        (issue, acknowledge, end): (I, Y),
        (issue, acknowledge, end, issue): (A, N),
        (end,): (I, Y),
        (acknowledge,): (I, Y),
        (issue, issue): (A, N),
    }
    for walk, (activity, ack) in walks.items():
        table = AlarmTable(ALARMS)
        for change in walk:
            table.change(KEY, change, 1)
        assert AlarmState[table.get(KEY).state].value == (activity, ack), walk


# --- at the wire ---


def test_an_alarm_is_told_acknowledged_and_ends() -> None:
    ends = Ends().connect()
    ends.site.issue(MAIN, "A0001", ends.now)
    ends.site.issue(MAIN, "A0001", ends.now)
    ends.pump()
    ends.ask(order(AlarmEvent.ACKNOWLEDGE))
    ends.site.end(MAIN, "A0001", ends.now)
    ends.site.end(MAIN, "A0001", ends.now)
    ends.pump()
    assert told(ends) == [
        ("Issue", I, Y, "notSuspended"),
        ("Issue", A, N, "notSuspended"),
        ("Acknowledge", A, Y, "notSuspended"),
        ("Issue", I, Y, "notSuspended"),
    ]
    assert [type(event) for event in ends.happened if isinstance(event, AlarmChanged)] == [AlarmChanged]


def test_an_alarm_carries_its_values_and_the_moment_at_which_it_happened() -> None:
    ends = Ends().connect()
    happened = replace(ends.now, utc_ms=ends.now.utc_ms - 5000)
    ends.site.issue(DETECTOR, "A0302", happened, DETECTOR_FAULT)
    ends.pump()
    alarm = ends.heard()[-1]
    assert isinstance(alarm, Alarm)
    assert isinstance(alarm.values, tuple)
    assert {one.name: one.value for one in alarm.values} == DETECTOR_FAULT
    assert (alarm.at, alarm.priority, alarm.category) == (m.stamp(happened.utc_ms), "3", "D")


def test_a_suspended_alarm_is_not_told_and_goes_on_all_the_same() -> None:
    ends = Ends().connect()
    ends.ask(order(AlarmEvent.SUSPEND))
    ends.site.issue(MAIN, "A0001", ends.now)
    ends.pump()
    ends.ask(order(AlarmEvent.RESUME))
    assert told(ends)[1:] == [("Suspend", I, Y, "Suspended"), ("Suspend", A, N, "notSuspended")]


def test_every_order_is_answered_also_when_it_changes_nothing() -> None:
    ends = Ends().connect()
    for event in (AlarmEvent.ACKNOWLEDGE, AlarmEvent.RESUME, AlarmEvent.SUSPEND, AlarmEvent.SUSPEND):
        assert len(ends.ask(order(event))) == 1
    (asked,) = ends.ask(order(AlarmEvent.REQUEST))
    assert isinstance(asked, Alarm)
    assert (asked.event, asked.suspension) == ("Issue", "Suspended")


def test_an_alarm_that_the_site_cannot_have_is_refused() -> None:
    ends = Ends().connect()
    assert ends.ask(order(AlarmEvent.SUSPEND, "A0101")) == []
    assert ends.ask(order(AlarmEvent.REQUEST, component="nobody")) == []
    reasons = [event.reason for event in ends.told if isinstance(event, NotAcknowledged)]
    assert reasons == [f"{MAIN} has no alarm A0101", "nobody has no alarm A0001"]


def test_an_alarm_acknowledged_at_the_controllers_panel_is_told() -> None:
    ends = Ends().connect()
    ends.site.issue(MAIN, "A0001", ends.now)
    ends.site.acknowledge_locally(MAIN, "A0001", ends.now)
    ends.pump()
    assert told(ends)[-1] == ("Acknowledge", A, Y, "notSuspended")
    assert {alarm.code: alarm.active for alarm in ends.site.alarms()}["A0001"]


@pytest.mark.parametrize(
    ("component", "code", "values"),
    [(MAIN, "A9999", {}), ("nobody", "A0001", {}), (DETECTOR, "A0302", {}), (MAIN, "A0001", {"x": "1"})],
)
def test_a_site_raises_only_what_its_list_and_it_can_have(
    component: str, code: str, values: dict[str, str]
) -> None:
    ends = Ends()
    with pytest.raises(LocalProtocolError):
        ends.site.issue(component, code, ends.now, values)


def test_a_traffic_alarm_keeps_its_category() -> None:
    assert AlarmRecord(MAIN, "A0001", 1, category="T").message(AlarmEvent.ISSUE).category == "T"


# --- the buffer ---


def test_what_happens_while_nobody_listens_is_told_in_order_after_all_alarms() -> None:
    ends = Ends()
    ends.site.aggregate(HEALTHY, ends.now)
    ends.connect()
    ends.site.disconnected(ends.now, "cable")
    for change in ("issue", "end", "issue"):
        ends.now = replace(ends.now, utc_ms=ends.now.utc_ms + 1000)
        getattr(ends.site, change)(MAIN, "A0001", ends.now)
    ends.site.aggregate((True, *HEALTHY[1:]), ends.now)
    ends.site.aggregate(HEALTHY, replace(ends.now, utc_ms=ends.now.utc_ms + 1))
    assert ends.site.buffered == 5
    before = len(ends.heard())
    ends.connect()
    heard = [(type(one).__name__, getattr(one, "activity", None)) for one in ends.heard()[before + 1 :]]
    # the last issue and the last aggregated status have been told as the present ones
    assert heard == [
        ("AggregatedStatus", None),
        ("Alarm", A), ("Alarm", I), ("Alarm", I),
        ("Alarm", A), ("Alarm", I), ("AggregatedStatus", None),
    ]  # fmt: skip
    assert ends.site.buffered == 0


def test_an_alarm_that_came_and_went_within_one_millisecond_is_told_all_the_same() -> None:
    ends = Ends().connect()
    ends.site.disconnected(ends.now, "cable")
    ends.site.issue(MAIN, "A0001", ends.now)
    ends.site.end(MAIN, "A0001", ends.now)
    ends.connect()
    assert [one[1] for one in told(ends)] == [I, I, A]


def test_what_was_sent_and_not_acknowledged_is_sent_again_with_a_new_identity() -> None:
    ends = Ends().connect()
    ends.site.issue(MAIN, "A0001", ends.now)
    ends.now = replace(ends.now, utc_ms=ends.now.utc_ms + 1000)
    ends.site.end(MAIN, "A0001", ends.now)
    lost = ends.site.data_to_send()
    assert b"A0001" in lost
    ends.site.disconnected(ends.now, "cable")
    assert ends.site.buffered == 2
    ends.connect()
    assert [one[1] for one in told(ends)] == [I, I, A]
    ids = [one.m_id for one in ends.heard()]
    assert len(set(ids)) == len(ids)
    assert not any(one.encode() in lost for one in ids)


def test_new_events_wait_behind_what_is_buffered() -> None:
    ends = Ends().connect()
    ends.site.disconnected(ends.now, "cable")
    for number in range(100):
        now = replace(ends.now, utc_ms=ends.now.utc_ms + number)
        (ends.site.end if number % 2 else ends.site.issue)(MAIN, "A0001", now)
    ends.site.connected(ends.now)
    ends.supervisor = type(ends.supervisor)(ends.terms, identities(9), ends.now)
    while ends.site.buffered == 100:
        ends.carry_up()
        ends.carry_down()
    assert 0 < ends.site.buffered < 100
    ends.site.issue(DETECTOR, "A0302", ends.now, DETECTOR_FAULT)
    ends.pump()
    last = ends.heard()[-1]
    assert isinstance(last, Alarm)
    assert last.code == "A0302"
    stamps = [one.at for one in ends.heard() if isinstance(one, Alarm) and one.code == "A0001"][2:]
    assert stamps == sorted(stamps)  # type: ignore[type-var]


def test_a_buffered_status_is_told_as_an_old_one_and_its_subscription_outlives_the_disruption() -> None:
    ends = Ends(settings(buffered=frozenset({"S0001"})))
    ends.site.tell(MAIN, "S0001", {"stage": "1"}, ends.now)
    ends.site.tell(MAIN, "S0014", {"status": "1"}, ends.now)
    ends.connect()
    for code, name in (("S0001", "stage"), ("S0014", "status")):
        ends.ask(m.StatusSubscribe(component=MAIN, wanted=(m.Subscription(code, name),)))
    ends.site.disconnected(ends.now, "cable")
    ends.site.tell(MAIN, "S0001", {"stage": "2"}, ends.now)
    ends.site.tell(MAIN, "S0014", {"status": "2"}, ends.now)
    before = len(ends.heard())
    ends.connect()
    ends.site.tell(MAIN, "S0001", {"stage": "3"}, ends.now)
    ends.site.tell(MAIN, "S0014", {"status": "3"}, ends.now)
    ends.pump()
    statuses = [one.values[0] for one in ends.heard()[before:] if isinstance(one, m.StatusUpdate)]
    assert [(one.value, one.quality) for one in statuses] == [("2", Quality.OLD), ("3", Quality.RECENT)]


def test_an_unknown_status_stays_unknown_in_the_buffer() -> None:
    buffer = OutgoingBuffer()
    lost = m.StatusValue("S0001", "stage", None, Quality.UNKNOWN)
    buffer.put(m.StatusUpdate(component=MAIN, at=m.stamp(0), values=(lost,)))
    held = buffer.take()
    assert isinstance(held, m.StatusUpdate)
    assert held.values == (lost,)
    assert buffer.take() is None


def test_a_full_buffer_drops_its_oldest_and_counts_it() -> None:
    buffer = OutgoingBuffer()
    for number in range(MIN_BUFFER + 3):
        buffer.put(m.AggregatedStatus(component=str(number), at=m.stamp(0), elements=HEALTHY))
    oldest = buffer.take()
    assert isinstance(oldest, m.AggregatedStatus)
    assert (oldest.component, buffer.dropped, len(buffer)) == ("3", 3, MIN_BUFFER - 1)
    with pytest.raises(LocalProtocolError):
        OutgoingBuffer(MIN_BUFFER - 1)


def test_commands_watchdogs_and_statuses_that_are_not_buffered_are_not_held() -> None:
    buffer = OutgoingBuffer()
    value = m.StatusValue("S0001", "stage", "1", Quality.RECENT)
    sent: list[m.Identified] = [
        m.Watchdog(at=m.stamp(0)),
        m.CommandResponse(component=MAIN, at=m.stamp(0), values=()),
        m.StatusUpdate(component=MAIN, at=m.stamp(0), values=(value,)),
        m.StatusResponse(component=MAIN, at=m.stamp(0), values=(value,)),
        m.AggregatedStatus(component=MAIN, at=m.stamp(0), elements=HEALTHY),
    ]
    buffer.put_back(sent, frozenset())
    assert [type(one) for one in buffer] == [m.AggregatedStatus]
    buffer.put_back(sent, frozenset({"S0001"}))
    assert [type(one).__name__ for one in buffer] == ["StatusUpdate", "AggregatedStatus", "AggregatedStatus"]


def test_ten_thousand_buffered_messages_go_out_a_window_at_a_time() -> None:
    ends = Ends().connect()
    ends.site.disconnected(ends.now, "cable")
    for number in range(300):
        now = replace(ends.now, utc_ms=ends.now.utc_ms + number)
        (ends.site.end if number % 2 else ends.site.issue)(MAIN, "A0001", now)
    ends.site.connected(ends.now)
    ends.supervisor = type(ends.supervisor)(ends.terms, identities(9), ends.now)
    sizes = []
    for _ in itertools.count():
        up = ends.carry_up()
        sizes.append(up.count(b"\x0c"))
        if not ends.carry_down() and not up:
            break
    assert max(sizes) < 80
    assert ends.site.buffered == 0


# --- what outlives a power cut ---


def test_alarms_and_buffer_outlive_a_power_cut() -> None:
    ends = Ends().connect()
    ends.site.disconnected(ends.now, "no power")
    changes = ends.site.buffer_changes
    ends.site.issue(MAIN, "A0001", ends.now)
    assert ends.site.buffer_changes > changes
    kept = ends.site.snapshot()
    again = Site(settings(), ALARMS[:2], identities(5), START)
    again.restore(kept)
    assert again.buffered == 1
    assert again.alarms()[0] == ends.site.alarms()[0]
    assert [alarm.code for alarm in again.alarms()] == ["A0001", "A0008"]
    ends.site = again
    ends.now = replace(ends.now, utc_ms=ends.now.utc_ms + 1)
    again.end(MAIN, "A0001", ends.now)
    ends.connect()
    assert [one[1] for one in told(ends)][1:] == [I, A]


def test_a_damaged_snapshot_takes_nothing() -> None:
    site = Site(settings(), ALARMS, identities(), START)
    for damaged in (b"", b"{}[", site.snapshot()[:-3]):
        with pytest.raises(LocalProtocolError):
            site.restore(damaged)
    assert site.next_event() is NEED_DATA
