"""Communication establishment, acknowledgements and watchdogs (core 3.2.2, Transport of data)."""

import itertools
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocols.errors import LocalProtocolError
from protocols.rsmp import exchange as x
from protocols.rsmp.codec import decode, encode
from protocols.rsmp.exchange import NEED_DATA, NEXT, Exchange, Role, Stage, Step, Terms
from protocols.rsmp.framing import MAX_MESSAGE
from protocols.rsmp.messages import (
    Alarm,
    AlarmEvent,
    CommandRequest,
    Core,
    Fault,
    Message,
    MessageAck,
    MessageNotAck,
    RsmpVersion,
    SiteId,
    StatusName,
    StatusRequest,
    StatusUpdate,
    Version,
    Watchdog,
    stamp,
)
from protocols.rsmp.site_terms import HEALTHY
from tests.protocols.rsmp.ends import MAIN, START, SUPERVISOR, Ends, command, identities, settings

ASK = StatusRequest(component=MAIN, wanted=(StatusName("S0001", "stage"),))
ORDER = command("M0002", "setPlan", {"status": "True"})
ID = "be12ab9a-800c-4c19-8c50-adf832f22420"
UPDATE = (
    b'{"mType":"rSMsg","type":"StatusUpdate","mId":"be12ab9a-800c-4c19-8c50-adf832f22420","cId":"x",'
    b'"sTs":"2015-06-08T12:01:39.654Z","sS":[{"sCI":"S0001","n":"stage","s":"1","q":"recent"}]}\x0c'
)


def version(**others: object) -> Version:
    said = Version(m_id=ID, versions=(RsmpVersion("3.2.2"),), sites=(SiteId(MAIN),), sxl="1.2.1")
    return replace(said, **others)


def wire(*messages: Message) -> bytes:
    return b"".join(encode(one) + b"\x0c" for one in messages)


def supervisor(terms: Terms = SUPERVISOR) -> Exchange:
    return Exchange(terms, identities(), START)


def site(terms: Terms | None = None) -> Exchange:
    return Exchange(terms or settings().terms, identities(), START)


def events(end: Exchange, received: bytes = b"") -> list[x.Event]:
    end.receive_data(received, START)
    return list(drained(end))


def drained(end: Exchange) -> Iterator[x.Event]:
    while (event := end.next_event()) is not NEED_DATA:
        yield event


def said(end: Exchange) -> list[str]:
    """Return the types of what an end has to say."""
    return [decode(packet).__class__.__name__ for packet in end.data_to_send().split(b"\x0c")[:-1]]


def opened() -> tuple[Exchange, list[x.Event]]:
    """Return a supervisor's end of an open connection, with nothing left to say."""
    end = supervisor()
    events(end, wire(version()))
    own = end.data_to_send().split(b"\x0c")[1]
    acked = MessageAck(of=decode(own).m_id)  # type: ignore[union-attr]
    happened = events(end, wire(acked, Watchdog(m_id=ID, at=stamp(0))))
    end.data_to_send()
    return end, happened


@pytest.mark.parametrize("core", Core)
def test_both_ends_of_every_version_come_to_free_exchange(core: Core) -> None:
    ends = Ends(settings(core))
    ends.site.aggregate(HEALTHY, ends.now)
    ends.connect()
    assert ends.supervisor.stage is Stage.OPEN
    assert ends.site.open
    assert ends.of(x.Ready) == [x.Ready(core, "1.2.1", (MAIN,))]


def test_a_site_says_version_watchdog_aggregated_status_and_all_alarms_in_this_order() -> None:
    ends = Ends()
    ends.site.aggregate(HEALTHY, ends.now)
    ends.connect()
    kinds = [type(message).__name__ for message in ends.heard()]
    assert kinds == ["Watchdog", "AggregatedStatus", "Alarm", "Alarm", "Alarm"]


def test_the_supervisor_says_its_version_after_it_acknowledged_and_its_watchdog_after_the_sites() -> None:
    end = supervisor()
    assert said(end) == []
    events(end, wire(version()))
    assert end.stage is Stage.ANSWERED
    packets = end.data_to_send().split(b"\x0c")
    assert [decode(packet).__class__ for packet in packets[:-1]] == [MessageAck, Version]
    own = decode(packets[1])
    assert isinstance(own, Version)
    events(end, wire(MessageAck(of=own.m_id)))
    assert (end.stage, said(end)) == (Stage.AGREED, [])
    happened = events(end, wire(Watchdog(m_id=ID, at=stamp(0))))
    assert said(end) == ["MessageAck", "Watchdog"]
    assert [type(event) for event in happened] == [x.Ready, x.Received]


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        (tuple(Core), ("3.1.3", "3.2.1", "9.9"), Core.V3_2_1),
        ((Core.V3_1_4, Core.V3_1_2), ("3.1.2", "3.1.4", "3.2.2"), Core.V3_1_4),
        (tuple(Core), ("3.1.2",), Core.V3_1_2),
    ],
)
def test_the_highest_common_version_is_used(
    ours: tuple[Core, ...], theirs: tuple[str, ...], agreed: Core
) -> None:
    end = supervisor(replace(SUPERVISOR, versions=ours))
    events(end, wire(version(versions=tuple(map(RsmpVersion, theirs)))))
    assert end.core is agreed


@pytest.mark.parametrize("sxl", ["1.1", "1.1.0"])
def test_a_version_with_two_numbers_is_the_one_with_a_zero_and_is_said_as_the_site_says_it(sxl: str) -> None:
    end = supervisor(replace(SUPERVISOR, sxl="1.1.0"))
    events(end, wire(version(sxl=sxl)))
    assert f'"SXL":"{sxl}"'.encode() in end.data_to_send()


@pytest.mark.parametrize(
    ("theirs", "fault"),
    [
        (version(versions=(RsmpVersion("3.3.0"),)), Fault.VERSION_MISMATCH),
        (version(sxl="1.2"), Fault.SXL_MISMATCH),
        (version(sxl="1.2.1.1"), Fault.SXL_MISMATCH),
        (version(sites=(SiteId("\x1b[31mX"),)), Fault.UNKNOWN_SITE),
    ],
)
@pytest.mark.parametrize("role", Role)
def test_a_mismatch_is_refused_with_a_reason_and_ends_the_connection(
    role: Role, theirs: Version, fault: Fault
) -> None:
    end = supervisor() if role is Role.SUPERVISOR else site()
    if role is Role.SITE:
        own = decode(end.data_to_send()[:-1])
        assert isinstance(own, Version)
        events(end, wire(MessageAck(of=own.m_id)))
    happened = events(end, wire(theirs))
    assert [type(event) for event in happened] == [x.Violation, x.Closed]
    assert end.violations == {fault: 1}
    (refusal,) = [decode(packet) for packet in end.data_to_send().split(b"\x0c")[:-1]]
    assert isinstance(refusal, MessageNotAck)
    assert refusal.of == ID
    assert refusal.reason == happened[-1].reason  # type: ignore[union-attr]
    assert refusal.reason.isprintable()
    assert (end.stage, end.deadline_ms) == (Stage.CLOSED, None)


def test_a_supervisor_without_sites_takes_any() -> None:
    end = supervisor(replace(SUPERVISOR, sites=()))
    events(end, wire(version(sites=(SiteId("anybody"),))))
    assert end.stage is Stage.ANSWERED


@pytest.mark.parametrize("role", Role)
def test_a_refused_version_ends_the_connection(role: Role) -> None:
    end = supervisor() if role is Role.SUPERVISOR else site()
    if role is Role.SUPERVISOR:
        events(end, wire(version()))
    own = decode(end.data_to_send().split(b"\x0c")[-2])
    assert isinstance(own, Version)
    happened = events(end, wire(MessageNotAck(of=own.m_id, reason="no")))
    assert happened == [x.Closed("our Version was refused: no")]


# --- out of order ---


def test_the_table_of_the_version_exchange_begins_at_each_roles_first_stage_and_ends_open() -> None:
    for role, first in ((Role.SITE, Stage.OFFERED), (Role.SUPERVISOR, Stage.LISTENING)):
        reached, todo = set(), [first]
        while todo:
            stage = todo.pop()
            reached.add(stage)
            todo += [one for one in NEXT[role].get(stage, {}).values() if one not in reached]
        assert Stage.OPEN in reached
        assert set(NEXT[role]) <= reached


@pytest.mark.parametrize("step", [UPDATE, wire(Watchdog(m_id=ID, at=stamp(0))), wire(MessageAck(of=ID))])
@pytest.mark.parametrize("before", [b"", wire(version())], ids=["first", "after Version"])
def test_before_the_version_exchange_ends_nothing_but_a_version_is_acknowledged(
    step: bytes, before: bytes
) -> None:
    end = supervisor()
    events(end, before)
    end.data_to_send()
    (happened,) = events(end, step)
    assert isinstance(happened, x.Violation)
    assert happened.fault in {Fault.OUT_OF_ORDER, Fault.UNKNOWN_ACKNOWLEDGEMENT}
    assert end.data_to_send() == b""


def test_a_site_that_hears_a_version_before_its_own_is_acknowledged_names_it_and_does_not_go_on() -> None:
    end = site()
    end.data_to_send()
    (happened,) = events(end, wire(version()))
    assert happened == x.Violation(Fault.OUT_OF_ORDER, "Version, but our Version is sent")
    assert (end.stage, end.data_to_send()) == (Stage.OFFERED, b"")


def test_a_second_version_is_refused_and_changes_nothing() -> None:
    end, _ = opened()
    (happened,) = events(end, wire(version(sxl="9")))
    assert happened == x.Violation(Fault.OUT_OF_ORDER, "Version, but messages are exchanged freely")
    assert (end.stage, end.sxl, said(end)) == (Stage.OPEN, "1.2.1", ["MessageNotAck"])


def test_a_message_before_the_first_watchdog_is_named_and_taken() -> None:
    end = supervisor()
    events(end, wire(version()))
    own = decode(end.data_to_send().split(b"\x0c")[1])
    assert isinstance(own, Version)
    happened = events(end, wire(MessageAck(of=own.m_id)) + UPDATE)
    assert [type(event) for event in happened] == [x.Acknowledged, x.Violation, x.Ready, x.Received]
    assert end.stage is Stage.OPEN


def test_without_the_first_watchdog_the_connection_opens_in_the_end() -> None:
    end = supervisor()
    events(end, wire(version()))
    own = decode(end.data_to_send().split(b"\x0c")[1])
    assert isinstance(own, Version)
    events(end, wire(MessageAck(of=own.m_id)))
    assert end.deadline_ms == START.monotonic_ms + 30_000
    end.tick(replace(START, monotonic_ms=START.monotonic_ms + 30_000))
    assert [type(event) for event in drained(end)] == [x.Violation, x.Ready]
    assert said(end) == ["Watchdog"]


@pytest.mark.parametrize("role", Role)
def test_a_version_exchange_that_does_not_end_is_given_up(role: Role) -> None:
    end = supervisor() if role is Role.SUPERVISOR else site()
    end.tick(replace(START, monotonic_ms=START.monotonic_ms + 29_999))
    assert list(drained(end)) == []
    end.tick(replace(START, monotonic_ms=START.monotonic_ms + 30_000))
    (closed,) = drained(end)
    assert isinstance(closed, x.Closed)
    assert "no Version exchange within 30 s" in closed.reason


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n\x0c", b"\x00" * 9000, b"[]\x0c", b'{"mType":"rSMsg","type":"Version"}\x0c'],
)
def test_a_peer_that_says_no_rsmp_is_let_go(noise: bytes) -> None:
    end = supervisor()
    happened = events(end, noise + wire(version()))
    assert [type(event) for event in happened] == [x.Violation, x.Closed]
    assert events(end, wire(version())) == []


def test_a_version_that_is_none_is_refused_with_its_fault() -> None:
    end = supervisor()
    happened = events(end, wire(version()).replace(b'"SXL"', b'"sxl"'))
    assert [type(event) for event in happened] == [x.Violation, x.Closed]
    assert said(end) == ["MessageNotAck"]


# --- free exchange ---


@pytest.mark.parametrize(
    ("packet", "fault", "answer"),
    [
        (b"no json", Fault.NOT_JSON, []),
        (b"x" * (MAX_MESSAGE + 1), Fault.TOO_LONG, []),
        (UPDATE[:-1].replace(b"rSMsg", b"RSMSG"), Fault.WRONG_M_TYPE, ["MessageNotAck"]),
        (UPDATE[:-1].replace(b'"1"', b"null"), Fault.NULL, ["MessageNotAck"]),
        (wire(MessageAck(of=ID))[:-1].replace(b"be12", b"zz12"), Fault.WRONG_ID, []),
        (wire(MessageNotAck(of=ID))[:-1], Fault.UNKNOWN_ACKNOWLEDGEMENT, []),
        (
            encode(replace(command("M0002", "setPlan", {"status": "True"}), m_id=ID)),
            Fault.NOT_FOR_US,
            ["MessageNotAck"],
        ),
        (
            encode(Alarm(m_id=ID, component=MAIN, code="A0001", event=AlarmEvent.SUSPEND)),
            Fault.NOT_FOR_US,
            ["MessageNotAck"],
        ),
    ],
)
def test_what_is_wrong_in_free_exchange_is_named_and_is_no_reason_to_disconnect(
    packet: bytes, fault: Fault, answer: list[str]
) -> None:
    end, _ = opened()
    happened = events(end, packet + b"\x0c")
    assert [type(event) for event in happened] == [x.Violation]
    assert end.violations == {fault: 1}
    assert said(end) == answer
    assert [type(event) for event in events(end, UPDATE)] == [x.Received]


@pytest.mark.parametrize(
    "message",
    [
        StatusUpdate(component=MAIN, at=stamp(0), values=()),
        Alarm(
            component=MAIN, code="A0001", event=AlarmEvent.ISSUE, ack="Acknowledged", activity="Active",
            suspension="notSuspended", at=stamp(0), category="D", priority="2", values=(),
        ),
    ],
)  # fmt: skip
def test_an_end_says_only_what_its_role_says(message: StatusUpdate | Alarm) -> None:
    end, _ = opened()
    with pytest.raises(LocalProtocolError, match="does not say"):
        end.send(message, START)


def test_nothing_is_said_before_the_connection_is_open_or_after_it_is_over() -> None:
    end = supervisor()
    with pytest.raises(LocalProtocolError):
        end.send(ASK, START)
    end, _ = opened()
    end.close("enough")
    end.close("once more")
    with pytest.raises(LocalProtocolError):
        end.send(ASK, START)
    (closed,) = drained(end)
    assert isinstance(closed, x.Closed)
    assert closed.reason == "enough"


def test_what_is_not_acknowledged_in_time_is_a_disruption_that_names_it() -> None:
    end, _ = opened()
    sent = end.send(ASK, START)
    assert end.deadline_ms == START.monotonic_ms + 30_000
    end.tick(replace(START, monotonic_ms=START.monotonic_ms + 30_000))
    (closed,) = drained(end)
    assert isinstance(closed, x.Closed)
    assert closed.reason == "Watchdog was not acknowledged within 30 s"
    assert sent in [getattr(message, "m_id", "") for message in closed.unacknowledged]


def test_each_transmission_has_an_identity_of_its_own() -> None:
    end, _ = opened()
    assert end.send(ASK, START) != end.send(ASK, START)


def test_a_refusal_names_what_was_refused() -> None:
    end, _ = opened()
    sent = end.send(ASK, START)
    (refused,) = events(end, wire(MessageNotAck(of=sent)))
    assert isinstance(refused, x.NotAcknowledged)
    assert (refused.message.m_id, refused.reason) == (sent, "no reason given")


def test_a_peer_that_never_acknowledges_has_a_bound() -> None:
    end, _ = opened()
    for _ in itertools.takewhile(lambda _: end.unacknowledged < x.MAX_UNACKNOWLEDGED, itertools.count()):
        end.send(ASK, START)
    with pytest.raises(LocalProtocolError):
        end.send(ASK, START)


def test_both_ends_say_their_watchdog_each_minute_and_acknowledge_the_others() -> None:
    ends = Ends().connect()
    before = len(ends.wire)
    for _ in range(6):
        ends.pass_time(30)
    kinds = [(role, b"Watchdog" in packet) for role, packet in ends.wire[before:] if b"Ack" not in packet]
    assert kinds.count((Role.SITE, True)) == kinds.count((Role.SUPERVISOR, True)) == 3
    assert ends.supervisor.stage is Stage.OPEN


def test_a_watchdog_that_does_not_come_is_named_once_and_is_no_reason_to_disconnect() -> None:
    end, _ = opened()
    end._unacknowledged.clear()
    now = START
    for _ in range(6):
        now = replace(now, monotonic_ms=now.monotonic_ms + 50_000)
        end.tick(now)
        end._unacknowledged.clear()
    assert end.stage is Stage.OPEN
    assert end.violations == {Fault.WATCHDOG_MISSED: 1}


def test_an_end_without_a_version_or_a_site_without_an_id_is_our_fault() -> None:
    for terms in (replace(SUPERVISOR, versions=()), replace(settings().terms, sites=())):
        with pytest.raises(LocalProtocolError):
            Exchange(terms, identities(), START)


def test_a_command_is_nothing_that_a_site_says_and_issue_nothing_that_it_takes() -> None:
    ends = Ends().connect()
    (issue,) = [
        packet
        for role, packet in ends.wire
        if role is Role.SITE and b'"A0001"' in packet and b"Issue" in packet
    ]
    exchange = ends.site._exchange
    assert exchange is not None
    exchange.receive_data(issue + b"\x0c", ends.now)
    assert isinstance(next(drained(exchange)), x.Violation)
    with pytest.raises(LocalProtocolError):
        exchange.send(CommandRequest(component=MAIN, arguments=()), ends.now)


@given(st.lists(st.integers(0, 5000), max_size=8))
def test_any_split_of_a_whole_conversation_gives_the_same_events(cuts: list[int]) -> None:
    whole, _ = conversation([])
    cut, _ = conversation(cuts)
    assert cut == whole


def conversation(cuts: list[int]) -> tuple[list[str], bytes]:
    end = supervisor()
    stream = wire(version())
    happened = fed(end, stream, cuts)
    own = decode(end.data_to_send().split(b"\x0c")[1])
    assert isinstance(own, Version)
    stream = (
        wire(MessageAck(of=own.m_id), Watchdog(m_id=ID, at=stamp(0)))
        + UPDATE * 2
        + b"\x0c\x0cnoise\x0c"
        + UPDATE
    )
    happened += fed(end, stream, cuts)
    return happened, end.data_to_send()


def fed(end: Exchange, stream: bytes, cuts: list[int]) -> list[str]:
    at = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    happened: list[str] = []
    for a, b in pairwise(at):
        happened += [repr(event) for event in events(end, stream[a:b])]
    return happened


@given(st.binary(max_size=300))
def test_noise_never_raises_and_never_opens_a_connection(noise: bytes) -> None:
    end = supervisor()
    events(end, noise + b"\x0c")
    assert end.stage in {Stage.LISTENING, Stage.CLOSED}


def test_every_step_that_is_in_no_row_of_the_table_is_out_of_order() -> None:
    for role, stage, step in itertools.product(Role, Stage, Step):
        end = supervisor() if role is Role.SUPERVISOR else site()
        end.stage = stage
        following = NEXT[role].get(stage, {}).get(step)
        assert end._step(step) is (following is not None)
        assert end.stage is (following or stage)
