"""One Bluetooth device as the driver knows it, and what can be told of any advert at sight."""

from collections import Counter
from typing import Final

from drivers.base import Admission, Found, PolledPoint
from drivers.ble_scanner import Advert
from drivers.hearing import LastHeard
from drivers.key_store import Kept
from drivers.settings import DeviceSettings
from protocols.ble import bthome, eddystone
from protocols.ble.address import address_bytes
from protocols.ble.belief import Belief, Heard
from protocols.ble.bthome import BTHOME_UUID, Packet, Sealed
from protocols.ble.eddystone import EDDYSTONE_UUID, Uid
from protocols.ble.profiles import Expected, Format, profile_named
from protocols.ble.refusal import Refusal, RefusedError
from protocols.model.device import Kind
from protocols.model.ids import DeviceId
from protocols.model.reading import Fault, Sample, sample

MAX_SIGHT: Final = 160
"""Characters of what a search tells of one device."""
_UUIDS: Final = {Format.BTHOME: BTHOME_UUID, Format.EDDYSTONE: EDDYSTONE_UUID}


class Station:
    """One declared device.

    Attributes:
        id: which.
        address: its Bluetooth address.
        format: what its adverts are written in.
        uuid: of its service data.
        points: how they are watched.
        belief: what is believed of its adverts.
        committed: the last counter that is on disk.
        last: what it said last.
        refused: how many of its adverts were not believed, by reason.
        beyond: values that its profile does not have.
        unread: bytes that could not be read.
    """

    def __init__(self, settings: DeviceSettings) -> None:
        profile = profile_named(settings.map)
        self.id: DeviceId = settings.id
        self.address = str(settings.address)
        self.format = profile.format
        self.uuid = _UUIDS[profile.format]
        self.points = tuple(_heard_point(expected, settings) for expected in profile.expected)
        self._names = {one.said_as or one.point.name: one.point.name for one in profile.expected}
        self.last = LastHeard(self.id, [one.point.name for one in self.points])
        self.committed: int | None = None
        self.belief = self._new_belief(None)
        self.refused: Counter[Refusal] = Counter()
        self.beyond = 0
        self.unread = 0
        self._trouble = ""
        self._heard_ms: int | None = None
        self._rssi_dbm: int | None = None

    def know(self, kept: Kept) -> None:
        """Take the key and the counter that are on disk; what was believed before is forgotten."""
        self.committed = kept.counter
        self.belief = self._new_belief(kept)
        self._trouble = ""

    def _new_belief(self, kept: Kept | None) -> Belief:
        key, counter = (kept.key, kept.counter) if kept else (None, None)
        return Belief(self.format, address_bytes(self.address), key, counter)

    def refuse(self, fault: RefusedError) -> None:
        """Note an advert that is not believed."""
        self.refused[fault.refusal] += 1
        self._trouble = str(fault)

    def believe(self, heard: Heard, rssi_dbm: int | None, now_ms: int) -> Sample | None:
        """Note what is believed; return what it says of the device's own points, if anything."""
        self._trouble = ""
        self._heard_ms = now_ms
        self._rssi_dbm = rssi_dbm
        self.unread += heard.unread
        said = [one for one in heard.said if one.point in self._names]
        self.beyond += len(heard.said) - len(said)
        if not said:
            return None
        told = sample(self.id, now_ms, [self._names[one.point] for one in said], [one.value for one in said])
        self.last.keep(told)
        return told

    def admission(self, now_ms: int) -> tuple[Admission, str]:
        """Return where it is, and a sentence about it."""
        told = [self._where(now_ms)]
        if self._trouble:
            told.append(f"its last advert is not believed: {self._trouble}")
        if self.refused:
            counts = ", ".join(f"{count} {why.value}" for why, count in sorted(self.refused.items()))
            told.append(f"refused so far: {counts}")
        if self.beyond or self.unread:
            told.append(
                f"beyond its profile: {self.beyond} values, {self.unread} bytes that nobody here can read"
            )
        return self._admission(), "; ".join(told)

    def _admission(self) -> Admission:
        if not self.belief.keyed and self.refused[Refusal.NO_KEY]:
            return Admission.NO_KEY
        return Admission.AWAITED if self._heard_ms is None else Admission.HEARD

    def _where(self, now_ms: int) -> str:
        key = "its key is known" if self.belief.keyed else "it has no key"
        if self._heard_ms is None:
            return f"{key}, and nothing was heard of it since the start"
        counter = "" if self.committed is None else f", counter {self.committed}"
        ago_s = (now_ms - self._heard_ms) / 1000
        return f"{key}, heard {ago_s:.0f} s ago{_strength(self._rssi_dbm, ' at')}{counter}"


def _heard_point(expected: Expected, settings: DeviceSettings) -> PolledPoint:
    return PolledPoint(
        point=expected.point,
        poll_s=None,
        report=settings.report or expected.report,
        dead_band=expected.dead_band if settings.dead_band is None else settings.dead_band,
        heartbeat_s=settings.heartbeat_s or 900.0,
    )


def sight(advert: Advert, device: DeviceId | None) -> Found:
    """Return what an advert shows to whoever looks, believed or not; nothing is decrypted."""
    kind, text = None, "unknown"
    for uuid, data in advert.service_data.items():
        kind, text = Kind.SENSOR, _described(uuid, data)
    strength = _strength(advert.rssi_dbm, ",")
    return Found(advert.address, kind, _cut(f"{text}{strength}"), device)


def _described(uuid: int, data: bytes) -> str:
    try:
        if uuid == EDDYSTONE_UUID:
            return _beacon(eddystone.parse(data))
        return _bthome(bthome.parse(data))
    except RefusedError as fault:
        name = "Eddystone" if uuid == EDDYSTONE_UUID else "BTHome"
        return f"{name}, not readable: {fault}"


def _beacon(found: Uid | eddystone.Telemetry) -> str:
    if isinstance(found, Uid):
        return f"Eddystone beacon {found.namespace} {found.instance}"
    battery = "no battery" if found.battery_voltage_v is None else f"battery {found.battery_voltage_v:g} V"
    return f"Eddystone telemetry, {battery}"


def _bthome(found: Packet | Sealed) -> str:
    if isinstance(found, Sealed):
        return "BTHome v2, encrypted"
    said = [f"{one.point} {'unclear' if isinstance(one.value, Fault) else one.value}" for one in found.said]
    return f"BTHome v2: {', '.join(said) or 'nothing'}"


def _strength(rssi_dbm: int | None, before: str) -> str:
    return "" if rssi_dbm is None else f"{before} {rssi_dbm} dBm"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SIGHT else f"{text[: MAX_SIGHT - 1]}…"
