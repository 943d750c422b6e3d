"""Both ends of RSMP in one test, with every message that either writes held against the published schemas."""

import itertools
import uuid
from collections.abc import Callable, Mapping
from random import Random

from msgspec.structs import replace

from protocols.clock import Instant
from protocols.rsmp.alarms import AlarmRecord
from protocols.rsmp.exchange import NEED_DATA, Event, Exchange, Received, Role, Terms
from protocols.rsmp.messages import CommandArgument, CommandRequest, Core, Identified, Payload
from protocols.rsmp.site_role import Site
from protocols.rsmp.site_terms import CommandAsked, SiteEvent, SiteSettings
from protocols.rsmp.sxl import ComponentType
from protocols.rsmp.tlc import SXLS
from tests.rsmp_schemas import packets, violations

MAIN = "KK+AG0503=001TC000"
GROUP = "KK+AG0503=001SG001"
DETECTOR = "KK+AG0503=001DL001"
START = Instant(1_000, 1_760_000_000_000)
CODE = "2222"
COMPONENTS = {
    MAIN: ComponentType.CONTROLLER,
    GROUP: ComponentType.SIGNAL_GROUP,
    DETECTOR: ComponentType.DETECTOR,
}
ALARMS = (AlarmRecord(MAIN, "A0001", 2), AlarmRecord(GROUP, "A0008", 2), AlarmRecord(DETECTOR, "A0302", 3))
DETECTOR_FAULT = {
    "detector": "1",
    "type": "loop",
    "errormode": "on",
    "manual": "False",
    "logicerror": "always_on",
}


def identities(seed: int = 1) -> Callable[[], str]:
    """Return a source of UUIDs version 4 that is the same at each run."""
    random = Random(seed)
    return lambda: str(uuid.UUID(int=random.getrandbits(128), version=4))


def settings(
    core: Core | None = None, *, sxl: str = "1.2.1", buffered: frozenset[str] = frozenset()
) -> SiteSettings:
    versions = tuple(Core) if core is None else (core,)
    return SiteSettings(
        terms=Terms(role=Role.SITE, versions=versions, sxl=sxl, sites=(MAIN,)),
        sxl=SXLS[sxl],
        main=MAIN,
        components=COMPONENTS,
        commands=frozenset({"M0001", "M0002", "M0022", "M0103", "M0104"}),
        buffered=buffered,
        security_codes={1: "1111", 2: CODE},
    )


SUPERVISOR = Terms(role=Role.SUPERVISOR, sites=(MAIN,))


class Ends:
    """A site and a supervisor, and the wire between them.

    Attributes:
        now: the time at both.
        told: what happened at the supervisor.
        happened: what happened at the site.
        wire: every packet, with the end that wrote it.
        lawless: whether the supervisor says what the schemas forbid, on purpose.
    """

    def __init__(self, site: SiteSettings | None = None, supervisor: Terms = SUPERVISOR) -> None:
        self.settings = site or settings()
        self.terms = supervisor
        self.now = START
        self.site = Site(self.settings, ALARMS, identities(), self.now)
        self.supervisor = Exchange(supervisor, identities(2), self.now)
        self.told: list[Event] = []
        self.happened: list[SiteEvent] = []
        self.wire: list[tuple[Role, bytes]] = []
        self.answer = True
        self.lawless = False

    @property
    def core(self) -> str:
        return self.supervisor.core.value

    def connect(self) -> "Ends":
        self.supervisor = Exchange(self.terms, identities(len(self.wire) + 7), self.now)
        self.site.connected(self.now)
        self.pump()
        return self

    def pump(self) -> None:
        """Carry bytes to and fro until nobody has anything to say."""
        for _ in itertools.count():
            up = self.carry_up()
            down = self.carry_down()
            if not up and not down:
                return

    def carry_up(self) -> bytes:
        data = self.note(Role.SITE, self.site.data_to_send())
        self.supervisor.receive_data(data, self.now)
        while (event := self.supervisor.next_event()) is not NEED_DATA:
            self.told.append(event)
        return data

    def carry_down(self) -> bytes:
        data = self.note(Role.SUPERVISOR, self.supervisor.data_to_send())
        self.site.receive_data(data, self.now)
        while (event := self.site.next_event()) is not NEED_DATA:
            self.happened.append(event)
            if isinstance(event, CommandAsked) and self.answer:
                self.site.accept(event, self.now)
        return data

    def note(self, role: Role, data: bytes) -> bytes:
        for packet in packets(data):
            self.wire.append((role, packet))
            if self.lawless and role is Role.SUPERVISOR:
                continue
            assert violations(packet, self.core, self.settings.sxl.version) == []
        return data

    def pass_time(self, seconds: float) -> None:
        ms = round(seconds * 1000)
        self.now = replace(self.now, monotonic_ms=self.now.monotonic_ms + ms, utc_ms=self.now.utc_ms + ms)
        self.site.tick(self.now)
        self.supervisor.tick(self.now)
        self.pump()

    def ask(self, message: Payload) -> list[Identified]:
        """Let the supervisor say something; return what the site says to it."""
        before = len(self.heard())
        self.supervisor.send(message, self.now)
        self.pump()
        return self.heard()[before:]

    def heard(self) -> list[Identified]:
        return [event.message for event in self.told if isinstance(event, Received)]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.told if isinstance(event, kind)]


def command(code: str, order: str, arguments: Mapping[str, str], component: str = MAIN) -> CommandRequest:
    return CommandRequest(
        component=component,
        arguments=tuple(CommandArgument(code, name, order, value) for name, value in arguments.items()),
    )
