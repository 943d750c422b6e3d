"""One of each message of release 0.1, with every field set: what the golden bytes hold."""

from protocols.backhaul.messages import (
    VERSION,
    Ack,
    AlarmEvent,
    Batch,
    ClockEvent,
    Columns,
    CommandEvent,
    CommandMessage,
    GapCause,
    GapEvent,
    Hello,
    LastEnd,
    Layout,
    PolicyEvent,
    PolicyInForce,
    Position,
    Presence,
    PriorityEvent,
    SignedPolicy,
    Snapshot,
    Source,
    StartEvent,
    StreamHead,
    StreamMark,
)
from protocols.clock import ClockQuality
from protocols.model.alarm import Alarm, AlarmType
from protocols.model.command import Command, CommandState
from protocols.model.device import Device, Kind, Point, StreamClass
from protocols.model.ids import CabinetId, CommandId, DeviceId, KeyId, LineId, PointName
from protocols.model.priority import RequestState, VehicleType
from protocols.model.reading import Quality, Reason

CABINET = CabinetId("dijon-0001")
LAMP = DeviceId("lamp-01")
LEVEL = PointName("dimming_level")
NOON_MS = 1_795_521_600_000
HASH = "0123456789abcdef"

EVENTS = (
    StartEvent("boot-1", "0.1.0", LastEnd.CRASH, NOON_MS),
    AlarmEvent(LAMP, AlarmType.LAMP_FAILURE, NOON_MS, None, "the control gear reports a failed lamp"),
    AlarmEvent(LAMP, AlarmType.LAMP_FAILURE, NOON_MS, NOON_MS + 1, ""),
    CommandEvent(
        CommandId("c-1"),
        CommandState.VERIFIED,
        "",
        NOON_MS,
        LAMP,
        LEVEL,
        40,
        "operator:anna",
        NOON_MS + 60_000,
    ),
    PolicyEvent("lighting", 3, HASH, False, ("version: 3 is not above 3, which was here already",), NOON_MS),
    GapEvent(StreamClass.BULK, GapCause.SHED, NOON_MS, NOON_MS + 5, 1200, 7, 18, 99),
    GapEvent(StreamClass.ORDINARY, GapCause.CRASH, NOON_MS, NOON_MS + 5, None),
)

BATCH = Batch(
    version=VERSION,
    cabinet=CABINET,
    epoch=2**52 + 1,
    stream=StreamClass.CRITICAL,
    number=42,
    boot="boot-1",
    base_monotonic_ms=1_000_000,
    utc_offset_ms=NOON_MS - 1_000_000,
    clock=ClockQuality.HOLDOVER,
    columns=Columns(
        layouts=(
            Layout(LAMP, (LEVEL, PointName("lamp_failure"))),
            Layout(DeviceId("meter-1"), (PointName("active_power"),)),
        ),
        layout=(0, 1, 0),
        at_ms=(0, 20, 1500),
        values=(40.5, True, 1, None, "Ω"),
        faults=((3, Quality.BAD, Reason.NO_ANSWER),),
    ),
    events=EVENTS,
)

SNAPSHOT = Snapshot(
    version=VERSION,
    cabinet=CABINET,
    boot="boot-1",
    base_monotonic_ms=1_002_000,
    utc_offset_ms=NOON_MS - 1_000_000,
    clock=ClockQuality.SYNCHRONISED,
    columns=Columns(
        layouts=(
            Layout(LAMP, (LEVEL, PointName("lamp_failure"))),
            Layout(DeviceId("meter-1"), (PointName("active_power"),)),
        ),
        layout=(0, 1),
        at_ms=(-1_500, 0),
        values=(40.5, None, 812.25),
        faults=((1, Quality.BAD, Reason.NO_ANSWER),),
    ),
)

HELLO = Hello(
    version=VERSION,
    cabinet=CABINET,
    agent_version="0.1.0",
    boot="boot-1",
    epoch=2**52 + 1,
    streams=(StreamHead(StreamClass.EVENTS, 5, 2, 1, HASH), StreamHead(StreamClass.BULK, 1, 1, 0)),
    policies=(PolicyInForce("lighting", 2, HASH * 4),),
    alarms=(Alarm(DeviceId("dali-1"), AlarmType.LINE_DOWN, NOON_MS, None, "line dali-1: unplugged"),),
    last_end=LastEnd.CLEAN,
    inventory=(
        Device(
            id=LAMP,
            kind=Kind.LAMP,
            line=LineId("dali-1"),
            address="0",
            stream=StreamClass.ORDINARY,
            groups=("street",),
            commune="21231",
            points=(Point(LEVEL, "%", True, 0, 100), Point(PointName("lamp_failure"))),
        ),
    ),
    monotonic_ms=1_000_000,
    utc_ms=NOON_MS,
    clock=ClockQuality.SYNCHRONISED,
    keys=(KeyId("city-2026"),),
    sqlite_version="3.40.1",
)

ACK = Ack(2**52 + 1, (StreamMark(StreamClass.EVENTS, 4, HASH), StreamMark(StreamClass.BULK, 0)))

PRESENCE = Presence(True, "boot-1", NOON_MS)

COMMAND = CommandMessage(
    VERSION,
    Command(
        id=CommandId("c-1"),
        device=LAMP,
        point=LEVEL,
        value=40,
        issuer="operator:anna",
        expires_ms=NOON_MS + 10_000,
        not_before_ms=NOON_MS,
        until_ms=NOON_MS + 60_000,
        ramp_s=1.5,
    ),
)

POLICY = SignedPolicy(b'{"cabinet":"dijon-0001"}', KeyId("city-2026"), bytes(range(64)))

POSITION = Position(
    version=VERSION,
    pseudonym="v-5e1f",
    at_ms=NOON_MS,
    latitude=47.322,
    longitude=5.0415,
    heading_deg=271.5,
    speed_m_s=8.25,
    vehicle_type=VehicleType.BUS,
    route="L3",
    direction="1",
    doors_open=False,
    lateness_s=-45,
)

PRIORITY_EVENT = PriorityEvent(
    request="lu-5a3c91d0-e41f07-12",
    junction=DeviceId("crossing"),
    rule="buses",
    approach="north",
    signal_group="LU+DJ0001=001SG002",
    vehicle="v-5e1f",
    source=Source.LOCAL,
    level=7,
    state=RequestState.COMPLETED,
    reason="it has passed",
    at_ms=NOON_MS,
    controller_ms=NOON_MS + 40,
    extension_s=3,
    reduction_s=12,
    shadow=True,
    over=True,
)

CLOCK_EVENT = ClockEvent(
    boot="boot-1",
    monotonic_ms=1_000_000,
    utc_ms=NOON_MS,
    before_ms=-30_000,
    before=ClockQuality.UNSYNCHRONISED,
    clock=ClockQuality.SYNCHRONISED,
    corrects=True,
)
