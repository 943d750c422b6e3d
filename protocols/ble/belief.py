"""What of a device's adverts is believed: pure, one `Belief` for each device, the time handed in.

An advert is repeated many times, may be made by anybody, and may be a recording. So:

- With a key, only what was made with it is believed, and only while the counter grows. An advert with the last
  counter is a repetition: it says nothing, not even that its device still lives, because a recording would do. One
  below it is refused by name; a sensor that lost its counter with its battery has to be admitted anew by somebody
  who knows that.
- Without a key anybody can say anything, and a repetition is told by its bytes. Something that happened is told
  once, however long its advert is repeated; a state that is repeated unchanged is told anew each minute.
- Nobody may say more than a sensor would: beyond it adverts are refused, and forgotten, so that a repetition of
  what mattered still gets through.
"""

from typing import Final

import msgspec

from protocols.ble import bthome, eddystone
from protocols.ble.bthome import Packet, Said, Sealed
from protocols.ble.profiles import BATTERY_VOLTAGE, TEMPERATURE, UPTIME, Format
from protocols.ble.refusal import Refusal, RefusedError
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Reason, Value

RATE_PER_S: Final = 10
"""New packets a second that a device may say for ever: adverts of sensors are 100 ms apart or more."""
BURST: Final = 20
EVENT_REPEATED_MS: Final = 10_000
"""An event's advert heard again within this time of its last is the same event: sensors repeat it for seconds."""
STATE_RENEWED_MS: Final = 60_000
"""A state that is repeated unchanged is told anew after this time."""
RECENT: Final = 8
"""Adverts remembered of one device: some take turns with several, each repeated."""
_NOT_AVAILABLE: Final = Fault(Quality.BAD, Reason.NOT_AVAILABLE)


class Heard(msgspec.Struct, frozen=True):
    """What is believed of one advert.

    Attributes:
        said: its values; none if it is a repetition.
        counter: what it was encrypted with, to be kept before its values are told; None if it was not.
        unread: bytes that could not be read.
        repeated: whether it only shows that its device lives.
    """

    said: tuple[Said, ...]
    counter: int | None = None
    unread: int = 0
    repeated: bool = False


class _Recent:
    """One advert that was heard lately."""

    __slots__ = ("heard_ms", "told_ms")

    def __init__(self, now_ms: int) -> None:
        self.told_ms = now_ms
        self.heard_ms = now_ms


class Belief:
    """Tells new adverts of one device from repetitions, recordings and forgeries.

    Args:
        form: what its adverts are written in.
        address: its six bytes, part of what it encrypts with.
        key: its bind key; None while it has none.
        counter: the last that was believed; None before the first.

    Attributes:
        counter: see above.
    """

    __slots__ = ("_address", "_format", "_key", "_purse_ms", "_recent", "counter")

    def __init__(
        self,
        form: Format,
        address: bytes,
        key: bytes | None = None,
        counter: int | None = None,
    ) -> None:
        self._format = form
        self._address = address
        self._key = key
        self._recent: dict[bytes, _Recent] = {}
        self._purse_ms: float | None = None
        self.counter = counter

    @property
    def keyed(self) -> bool:
        """Tell whether it has a key."""
        return self._key is not None

    def judge(self, service_data: bytes, now_ms: int) -> Heard | None:
        """Judge one advert's service data.

        Args:
            service_data: of its format's UUID, without the UUID.
            now_ms: monotonic milliseconds.

        Returns:
            What is believed of it; None for a repetition that proves nothing.

        Raises:
            RefusedError: if it is not believed.
        """
        if self._format is Format.EDDYSTONE:
            return self._plain(service_data, _beacon(service_data), now_ms)
        found = bthome.parse(service_data)
        if isinstance(found, Sealed):
            return self._sealed(found, now_ms)
        if self._key is not None:
            raise RefusedError(Refusal.PLAIN, "it is not encrypted, although its device has a key")
        return self._plain(service_data, found, now_ms)

    def _sealed(self, sealed: Sealed, now_ms: int) -> Heard | None:
        if self._key is None:
            raise RefusedError(Refusal.NO_KEY, "it is encrypted, and its key is not known here")
        packet = bthome.unseal(sealed, self._address, self._key)
        if self.counter is not None and sealed.counter <= self.counter:
            if sealed.counter == self.counter:
                return None
            raise RefusedError(
                Refusal.COUNTER_BACK,
                f"its counter went back from {self.counter} to {sealed.counter}: it was recorded and sent again, "
                "or the sensor began anew, as after a change of its battery; then admit it anew",
            )
        self._pay(now_ms)
        self.counter = sealed.counter
        return Heard(packet.said, sealed.counter, packet.unread)

    def _plain(self, data: bytes, packet: Packet, now_ms: int) -> Heard:
        known = self._recent.get(data)
        if known is not None:
            if _is_repetition(known, packet, now_ms):
                known.heard_ms = now_ms
                return Heard((), repeated=True)
            del self._recent[data]
        self._pay(now_ms)
        self._recent[data] = _Recent(now_ms)
        if len(self._recent) > RECENT:
            del self._recent[min(self._recent, key=lambda other: self._recent[other].heard_ms)]
        return Heard(packet.said, unread=packet.unread)

    def _pay(self, now_ms: int) -> None:
        """Take one packet from what a device may say: a purse of BURST that fills by RATE_PER_S."""
        price = 1000 / RATE_PER_S
        full_since = now_ms - BURST * price
        purse_ms = full_since if self._purse_ms is None else max(self._purse_ms, full_since)
        if purse_ms + price > now_ms:
            raise RefusedError(Refusal.FLOOD, f"more than {RATE_PER_S} new packets a second")
        self._purse_ms = purse_ms + price


def _is_repetition(known: _Recent, packet: Packet, now_ms: int) -> bool:
    if packet.eventful:
        return now_ms - known.heard_ms <= EVENT_REPEATED_MS
    return now_ms - known.told_ms < STATE_RENEWED_MS


def _beacon(frame: bytes) -> Packet:
    found = eddystone.parse(frame)
    if isinstance(found, eddystone.Uid):
        return Packet(())
    return Packet(
        (
            _measured(BATTERY_VOLTAGE, found.battery_voltage_v),
            _measured(TEMPERATURE, found.temperature_c),
            Said(UPTIME, found.uptime_s),
        )
    )


def _measured(point: PointName, value: Value) -> Said:
    return Said(point, _NOT_AVAILABLE if value is None else value)
