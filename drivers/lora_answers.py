"""What a network server says to a device besides payloads: answers to its MAC commands, and questions of its own."""

from collections.abc import Sequence
from typing import Final

from drivers.lora_devices import DataUplink
from drivers.settings import LoraUdp
from protocols.clock import ClockQuality, Instant
from protocols.lorawan.adr import HISTORY, Link, advise
from protocols.lorawan.mac import (
    MAX_OPTIONS,
    Command,
    DeviceTimeAns,
    DeviceTimeReq,
    DevStatusReq,
    LinkAdrReq,
    LinkCheckAns,
    LinkCheckReq,
    write_commands,
)
from protocols.lorawan.region import Region, floor_db
from protocols.lorawan.semtech_udp import Reception

GPS_EPOCH_MS: Final = 315_964_800_000
"""1980-01-06, in UTC."""
LEAP_MS: Final = 18_000
"""GPS time is ahead of UTC by 18 s since 2017 (IERS Bulletin C); no further leap second is announced."""
_MAX_MARGIN_DB: Final = 254


def answers_to(
    commands: Sequence[Command],
    uplink: DataUplink,
    best: Reception,
    *,
    now: Instant,
    settings: LoraUdp,
    region: Region,
) -> list[Command]:
    """Return what is to be said to a device, the most important first."""
    wanted: list[Command] = []
    if LinkCheckReq() in commands:
        wanted.append(_link_check(uplink, best))
    if DeviceTimeReq() in commands and now.quality is ClockQuality.SYNCHRONISED:
        wanted.append(device_time(now.utc_ms - (now.monotonic_ms - uplink.heard_ms)))
    link = _link(uplink, best, settings, region)
    if link is not None:
        wanted.append(link)
    if _status_is_due(uplink, now, settings):
        wanted.append(DevStatusReq())
    return wanted


def _link_check(uplink: DataUplink, best: Reception) -> LinkCheckAns:
    margin = int(best.snr_db - floor_db(best.modulation))
    gateways = {gateway.eui for gateway, _ in uplink.receptions}
    return LinkCheckAns(min(max(margin, 0), _MAX_MARGIN_DB), len(gateways))


def device_time(utc_ms: int) -> DeviceTimeAns:
    """Return a moment as seconds since the GPS epoch and 1/256 of them (1.0.3, 5.9)."""
    seconds, rest_ms = divmod(utc_ms - GPS_EPOCH_MS + LEAP_MS, 1000)
    return DeviceTimeAns(seconds & 0xFFFFFFFF, rest_ms * 256 // 1000)


def _link(uplink: DataUplink, best: Reception, settings: LoraUdp, region: Region) -> LinkAdrReq | None:
    """Advise a device that allows it, once enough of its uplinks were heard with its present settings."""
    session = uplink.session
    rate = region.number_of(best.modulation)
    if not (settings.adr and uplink.frame.adr) or rate is None or len(session.history) < HISTORY:
        return None
    now = Link(rate, session.power_index, session.nb_trans)
    advised = advise(region, now, session.history)
    if advised == now:
        return None
    channels = (1 << len(region.channels_hz)) - 1
    return LinkAdrReq(advised.data_rate, advised.power_index, channels, 0, advised.nb_trans)


def _status_is_due(uplink: DataUplink, now: Instant, settings: LoraUdp) -> bool:
    asked_ms = uplink.session.device.status_ms
    every_ms = settings.device_status_s * 1000
    return every_ms > 0 and (asked_ms is None or now.monotonic_ms - asked_ms >= every_ms)


def note_asked(commands: Sequence[Command], uplink: DataUplink, now: Instant) -> None:
    """Take note of what a device was asked, so that it is not asked again at once."""
    for command in commands:
        if isinstance(command, LinkAdrReq):
            uplink.session.asked = Link(command.data_rate, command.tx_power, command.nb_trans)
            uplink.session.history.clear()
        elif isinstance(command, DevStatusReq):
            uplink.session.device.status_ms = now.monotonic_ms


def that_fit(commands: Sequence[Command]) -> list[Command]:
    """Return the first commands that a frame's header has room for."""
    fitting = list(commands)
    while len(write_commands(fitting)) > MAX_OPTIONS:
        fitting.pop()
    return fitting
