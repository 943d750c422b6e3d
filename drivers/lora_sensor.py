"""What one radio device is to the cabinet: its points, and what it said last."""

from collections.abc import Mapping
from typing import Any, Final

from drivers.base import PolledPoint
from drivers.hearing import LastHeard
from drivers.lora_devices import Told
from drivers.settings import DeviceSettings, LoraUdp
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.mac import BATTERY_EXTERNAL, BATTERY_UNKNOWN
from protocols.lorawan.payloads import PayloadCodec
from protocols.model.device import Point, Report
from protocols.model.ids import PointName
from protocols.model.reading import Fault, Quality, Reason, Sample, Value, sample

RSSI: Final = PointName("rssi")
SNR: Final = PointName("snr")
FRAME_COUNTER: Final = PointName("frame_counter")
BATTERY: Final = PointName("battery_level")
LEVEL_DEAD_BAND_DB: Final = 3.0
"""Radio levels wander by this much from one uplink to the next with nothing changed."""
_RADIO: Final = (
    Point(RSSI, "dB[m]", minimum=-250, maximum=250),
    Point(SNR, "dB", minimum=-250, maximum=250),
    Point(FRAME_COUNTER, "", minimum=0, maximum=0xFFFFFFFF),
)
_GARBLED: Final = Fault(Quality.BAD, Reason.GARBLED)
_NOT_AVAILABLE: Final = Fault(Quality.BAD, Reason.NOT_AVAILABLE)


class Sensor:
    """One device.

    Args:
        settings: the device's.
        line: its line's.
        codec: what its payloads mean.

    Attributes:
        eui: its DevEUI in lower case.
        points: how each of its points is watched.
        last: what it said last.
        spoke_ms: when it was last heard; None for never.
    """

    def __init__(self, settings: DeviceSettings, line: LoraUdp, codec: PayloadCodec) -> None:
        self.id = settings.id
        self.settings = settings
        self.codec = codec
        self.eui = str(settings.address).lower()
        self.points = tuple(_polled(point, settings) for point in _points(codec, line))
        self.spoke_ms: int | None = None
        self._names = {polled.point.name: polled.point for polled in self.points}
        self._own = tuple(point.name for point in codec.points)
        self.last = LastHeard(self.id, self._names)

    def point(self, name: PointName) -> Point:
        """Return a point.

        Raises:
            LocalProtocolError: if it has none of that name.
        """
        found = self._names.get(name)
        if found is None:
            raise LocalProtocolError(f"{self.id} has no point {name}")
        return found

    def hear(self, told: Told, log: Any) -> tuple[Sample, str]:  # noqa: ANN401  structlog's loggers share no type
        """Take what it said; return that as a sample, and why its codec refused the payload or ""."""
        values: dict[PointName, Value | Fault] = {}
        refused = ""
        if told.port is not None:
            try:
                values.update(self._decoded(told.port, told.payload))
            except RemoteProtocolError as fault:
                refused = str(fault)
            except Exception as bug:
                log.exception("a payload codec failed for a reason nobody thought of", device=self.id)
                refused = f"its codec failed: {type(bug).__name__}"
            if refused:
                values = dict.fromkeys(self._own, _GARBLED)
        values |= {RSSI: told.rssi_dbm, SNR: told.snr_db, FRAME_COUNTER: told.counter}
        if told.battery is not None and BATTERY in self._names and BATTERY not in self._own:
            values[BATTERY] = _battery(told.battery)
        self.spoke_ms = told.at_ms
        said = sample(self.id, told.at_ms, tuple(values), tuple(values.values()))
        self.last.keep(said)
        return said, refused

    def _decoded(self, port: int, payload: bytes) -> Mapping[PointName, Value | Fault]:
        decoded = self.codec.decode(port, payload)
        return {name: decoded[name] for name in self._own if name in decoded}


def _points(codec: PayloadCodec, line: LoraUdp) -> tuple[Point, ...]:
    own = {point.name for point in codec.points}
    battery = (Point(BATTERY, "%", minimum=0, maximum=100),) if line.device_status_s else ()
    return (*codec.points, *(point for point in (*_RADIO, *battery) if point.name not in own))


def _polled(point: Point, settings: DeviceSettings) -> PolledPoint:
    level = point.name in {RSSI, SNR}
    return PolledPoint(
        point=point,
        poll_s=None,
        report=settings.report or Report.CHANGE,
        dead_band=LEVEL_DEAD_BAND_DB if level else settings.dead_band or 0.0,
        heartbeat_s=settings.heartbeat_s or 900.0,
    )


def _battery(said: int) -> Value | Fault:
    """Return per cent: 1 to 254 of DevStatusAns; what hangs on the mains or does not know has none."""
    if said in {BATTERY_EXTERNAL, BATTERY_UNKNOWN}:
        return _NOT_AVAILABLE
    return round((said - 1) / 253 * 100, 1)
