"""What a network server holds of each device in memory, as it is on disk."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from drivers.lora_gateways import Receptions
from drivers.lora_refusals import Refusal
from drivers.lora_store import DeviceRow, SessionRow
from protocols.lorawan.adr import HISTORY, Heard, Link
from protocols.lorawan.frame import DataFrame
from protocols.lorawan.security import Key, SessionKeys
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Value

MAX_QUEUED: Final = 8
"""Downlinks that may wait for one device: it takes one an uplink, and what is older is worth nothing."""
MAX_SESSIONS: Final = 4
"""Sessions that a device may have begun and not used: it may have missed an accept or two, not more."""
MAX_REPEATS: Final = 8
"""Times that a confirmed uplink sent again is acknowledged again; beyond it, somebody plays it for our airtime."""
_HOW: Final = {
    Refusal.NO_KEY: "",
    Refusal.WRONG_MIC: "with another key than the one given here",
    Refusal.JOIN_EUI: "naming another JoinEUI than the one given here",
    Refusal.NONCE: "with a nonce that it had used before",
}


class Outgoing:
    """A downlink that somebody wants.

    Attributes:
        point: what it sets.
        value: to what.
        port: its port.
        payload: plain.
        on_end: called with why, when it was not sent or not acknowledged.
        on_acknowledged: called when its device has acknowledged it.
        sent: whether it was given to a gateway.
        timers: end its waiting.
    """

    __slots__ = ("on_acknowledged", "on_end", "payload", "point", "port", "sent", "timers", "value")

    def __init__(self, point: PointName, value: Value, port: int, payload: bytes) -> None:
        self.point = point
        self.value = value
        self.port = port
        self.payload = payload
        self.on_end: Callable[[str], None] = lambda _: None
        self.on_acknowledged: Callable[[], None] = lambda: None
        self.sent = False
        self.timers: tuple[asyncio.TimerHandle, ...] = ()

    def end(self, why: str) -> None:
        """Say that it failed, and why, or that nobody knows."""
        self._stop_timers()
        self.on_end(why)

    def acknowledged(self) -> None:
        """Say that its device has taken it."""
        self._stop_timers()
        self.on_acknowledged()

    def _stop_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()


class Session:
    """One session of a device.

    Attributes:
        id: on disk.
        device: whose.
        dev_addr: its address.
        keys: its keys.
        rx1_delay_s: with which it was begun.
        taken: the last uplink counter that was taken; −1 for none.
        up: the last of them that is on disk.
        down: the next downlink counter.
        heard: whether an uplink on it is on disk.
        power_index: how quietly the device was told to speak.
        nb_trans: how often it was told to send each uplink.
        history: its last uplinks.
        asked: what it was told last and has not answered.
        repeats: how often the last uplink was acknowledged again.
        awaiting: the confirmed downlink that its next uplink has to acknowledge.
    """

    __slots__ = (
        "asked",
        "awaiting",
        "dev_addr",
        "device",
        "down",
        "heard",
        "history",
        "id",
        "keys",
        "nb_trans",
        "power_index",
        "repeats",
        "rx1_delay_s",
        "taken",
        "up",
    )

    def __init__(self, device: "RadioDevice", row: SessionRow) -> None:
        self.id = row.id
        self.device = device
        self.dev_addr = row.dev_addr
        self.keys = SessionKeys(Key(row.network), Key(row.application))
        self.rx1_delay_s = row.rx1_delay_s
        self.taken = row.up
        self.up = row.up
        self.down = row.down
        self.heard = bool(row.heard)
        self.power_index = row.power_index
        self.nb_trans = row.nb_trans
        self.history: deque[Heard] = deque(maxlen=HISTORY)
        self.asked: Link | None = None
        self.repeats = 0
        self.awaiting: Outgoing | None = None


class RefusedJoins(msgspec.Struct, frozen=True):
    """Join requests in a declared device's name that were refused, since its key was given or it was let in.

    Attributes:
        why: the last of them was.
        times: how many there were.
        at_ms: monotonic milliseconds of the last.
    """

    why: Refusal
    times: int
    at_ms: int

    def text(self, now_ms: int) -> str:
        """Return a sentence about them for a person."""
        how = _HOW.get(self.why, f"refused: {self.why.value}")
        times = "once" if self.times == 1 else f"{self.times} times"
        return f"it asked to join {times}, the last {(now_ms - self.at_ms) // 1000} s ago{how and f', {how}'}"


class RadioDevice:
    """One device of the settings.

    Attributes:
        id: the device.
        eui: its DevEUI, 16 hexadecimal digits in lower case.
        key: its AppKey; None before it is admitted.
        join_eui: the JoinEUI that it must name; None for any.
        join_nonce: the last that was given to it.
        refused: join requests in its name that were refused; None if there were none.
        nonces: every DevNonce that it ever used with this key: 65,536 at most.
        sessions: oldest first.
        queue: downlinks that wait.
        status_ms: when its battery was last asked for; None for never.
    """

    __slots__ = (
        "eui",
        "id",
        "join_eui",
        "join_nonce",
        "key",
        "nonces",
        "queue",
        "refused",
        "sessions",
        "status_ms",
    )

    def __init__(self, device: DeviceId, eui: str) -> None:
        self.id = device
        self.eui = eui
        self.key: Key | None = None
        self.join_eui: str | None = None
        self.join_nonce = 0
        self.nonces: set[int] = set()
        self.sessions: list[Session] = []
        self.queue: deque[Outgoing] = deque()
        self.status_ms: int | None = None
        self.refused: RefusedJoins | None = None

    def restore(self, row: DeviceRow) -> None:
        """Take what was kept of it."""
        self.key = Key(row.key)
        self.join_eui = row.join_eui
        self.join_nonce = row.join_nonce
        self.nonces = set(row.nonces)


class Uplink(msgspec.Struct):
    """A frame that was found genuine and waits for further antennas and for the disk.

    Attributes:
        wire: the PHYPayload.
        heard_ms: when its first copy came.
        receptions: by whom it was heard.
        kept: whether what must be on disk is there.
        closed: whether no further copies are waited for.
    """

    wire: bytes
    heard_ms: int
    receptions: Receptions
    kept: bool = False
    closed: bool = False


class DataUplink(Uplink, kw_only=True):
    """A data frame; `again` for one that was taken before and only wants its acknowledgement."""

    session: Session
    frame: DataFrame
    counter: int
    again: bool = False


class JoinUplink(Uplink, kw_only=True):
    """A join request; `accept` is the PHYPayload that answers it."""

    session: Session
    accept: bytes


class Stranger(msgspec.Struct, frozen=True):
    """A device that asks to join and that nobody declared.

    Attributes:
        dev_eui: 16 hexadecimal digits.
        join_eui: which it names.
        times: how often it was heard.
        rssi_dbm: the last time.
        snr_db: the last time.
    """

    dev_eui: str
    join_eui: str
    times: int
    rssi_dbm: float
    snr_db: float


class Told(msgspec.Struct, frozen=True):
    """What a device has said, proved and on disk.

    Attributes:
        device: who.
        at_ms: monotonic milliseconds.
        counter: its 32-bit frame counter.
        rssi_dbm: of the antenna that heard it best.
        snr_db: of the same.
        antennas: how many heard it.
        port: None where there was no payload for an application.
        payload: plain.
        battery: 0–255 as DevStatusAns has it; None if it did not say.
        answered: the downlink that this uplink had to acknowledge.
        acknowledged: whether it did.
    """

    device: DeviceId
    at_ms: int
    counter: int
    rssi_dbm: float
    snr_db: float
    antennas: int
    port: int | None = None
    payload: bytes = b""
    battery: int | None = None
    answered: Outgoing | None = None
    acknowledged: bool = False
