"""A street's radio sensors and the cabinet's network server, each with its own codec, over real sockets.

Every make joins and is understood; the attacker between them is not; the bench's own counts say the same as the
product's.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from drivers.lora_refusals import Refusal
from drivers.lorawan import LorawanDriver, open_lorawan
from drivers.settings import DeviceSettings, LoraUdp
from protocols.lorawan.payloads import CODECS
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.reading import Sample
from sim.faults import FaultSettings
from sim.lorawan_attack import forgeries
from sim.radio_settings import RadioSettings, SensorSettings
from sim.scenario import Scenario
from sim.street import Street
from tests.drivers.air import RealClock, free_port

LINE = LineId("lora-1")
RARELY_S = 3600.0
PATIENCE_S = 30.0
STEP_S = 0.2
"""Between two sensors that wake: their join accepts must not meet at the gateway."""
MAKES = sorted(CODECS)
SWITCH = DeviceId("milesight-ws558")
EVERY_FRAME = frozenset(Refusal) - {
    Refusal.NO_PATH,
    Refusal.TOO_LATE,
    Refusal.DUTY_CYCLE,
    Refusal.NOT_SENT,
    Refusal.STRAY_TX_ACK,
}


def sensor(index: int, make: str, every_s: float = RARELY_S) -> SensorSettings:
    return SensorSettings(
        name=make,
        device=make,
        dev_eui=f"24e124000000{index:04x}",
        app_key=f"5a{index:030x}",
        join_eui="24e124c0002a0001",
        every_s=every_s,
    )


class Played:
    """A street and a line that hears it.

    Attributes:
        said: every sample that the line told, in order.
    """

    def __init__(self, street: Street, driver: LorawanDriver) -> None:
        self.street = street
        self.driver = driver
        self.radio = street.radios["radio-1"]
        self.said: list[Sample] = []
        driver.on_sample = self._heard
        self._something = asyncio.Event()

    def _heard(self, sample: Sample) -> None:
        self.said.append(sample)
        self._something.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds, looking whenever the line has heard something and now and then."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._something.clear()
                with_patience = asyncio.wait_for(self._something.wait(), 0.05)
                await asyncio.gather(with_patience, return_exceptions=True)

    def heard(self, make: str) -> list[Sample]:
        return [one for one in self.said if one.device == make]

    def frames_refused(self) -> int:
        counters = self.driver.counters()
        return sum(counters[reason.value] for reason in EVERY_FRAME)


async def listening(port: int) -> None:
    """Wait until the line has its port: a forwarder's first word would be lost, and its next is 10 s away."""
    async with asyncio.timeout(PATIENCE_S):
        while is_free(port):
            await asyncio.to_thread(is_free, port)


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@asynccontextmanager
async def played(folder: Path, *sensors: SensorSettings) -> AsyncIterator[Played]:
    port = free_port()
    radio = RadioSettings(
        "radio-1", "0016c001f1500001", port=port, spread_s=STEP_S * len(sensors), sensors=sensors
    )
    settings = LoraUdp(id=LINE, port=port, device_status_s=0)
    devices = [
        DeviceSettings(
            id=DeviceId(one.name),
            kind=CODECS[one.device].kind,
            line=LINE,
            address=one.dev_eui,
            map=one.device,
        )
        for one in sensors
    ]
    driver = open_lorawan(settings, devices, RealClock(), folder)
    for one in sensors:
        await driver.admit(DeviceId(one.name), bytes.fromhex(one.app_key), int(one.join_eui, 16))
    running = asyncio.create_task(driver.run())
    try:
        await listening(port)
        async with Street(Scenario(control=None, radio=(radio,)), folder) as street:
            yield Played(street, driver)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_sensors_of_every_make_are_heard_and_told_and_an_attacker_is_not(tmp_path: Path) -> None:
    sensors = [sensor(index, make, 3.0 if make == SWITCH else RARELY_S) for index, make in enumerate(MAKES)]
    async with played(tmp_path, *sensors) as play:
        await play.until(lambda: all(play.heard(make) for make in MAKES))
        await play.street.fault("radio-1", "replay", settings=FaultSettings(every_s=0.02))
        await play.street.fault("radio-1", "forged", settings=FaultSettings(every_s=0.02))
        async with asyncio.timeout(PATIENCE_S):
            written = await play.driver.write(SWITCH, PointName("switch_3"), True)
        assert (written.state, written.value) == (CommandState.VERIFIED, True)
        await play.street.clear("radio-1")
        await play.street.fault(f"radio-1/{SWITCH}", "silent")
        await both_sides_count_the_same(play)
        compare_with_what_was_true(play)
        told = len(play.said)
        await attack_ten_thousand_times(play, SWITCH)
        assert len(play.said) == play.driver.counters()["uplinks"] == told
        keys = [one.app_key.encode() for one in sensors]
        bench = msgspec.json.encode(play.street.state()) + msgspec.json.encode(play.street.counters())
        assert [key for key in keys if key in bench] == []


async def both_sides_count_the_same(play: Played) -> None:
    air = play.street.counters().radio["radio-1"]
    sent, attacks = sum(one.uplinks for one in air.sensors.values()), air.air.replays + air.air.forged
    await play.until(lambda: len(play.said) >= sent and play.frames_refused() >= attacks)
    counters = play.driver.counters()
    assert attacks > 100
    assert play.frames_refused() == attacks
    assert counters["uplinks"] == len(play.said) == sent
    assert counters["joins"] == sum(one.joins for one in air.sensors.values()) == len(MAKES)
    assert counters["downlinks"] == air.gateway.responses == sum(air.gateway.answers.values())
    refused = {reason for one in air.sensors.values() for reason in one.downlinks_refused}
    assert refused <= {"not_for_me"}  # what is meant for another may fall into one's own window
    assert (air.sensors[SWITCH].commands, play.radio.devices[SWITCH].switches) == (1, 0b100)
    for make in MAKES:
        counter = PointName("frame_counter")
        counted = [one.values[one.points.index(counter)] for one in play.heard(make)]
        assert counted == list(range(len(counted)))


def compare_with_what_was_true(play: Played) -> None:
    state = play.street.state().radio["radio-1"]
    for make in MAKES:
        sample = play.heard(make)[-1]
        values = dict(zip(sample.points, sample.values, strict=True))
        truth = state.sensors[make].truth
        assert truth
        assert {name: values[PointName(name)] for name in truth} == pytest.approx(truth), make
        assert state.sensors[make].joined


async def attack_ten_thousand_times(play: Played, name: str) -> None:
    victim = play.radio.victim(name)
    assert victim is not None
    before = play.frames_refused()
    attacks = forgeries(victim, 10_000, seed=3)
    for begin in range(0, len(attacks), 200):
        for attack in attacks[begin : begin + 200]:
            play.radio.intrude(name, attack.frame)
        await play.until(lambda done=begin + 200: play.frames_refused() - before >= done)  # type: ignore[misc]
    assert play.frames_refused() - before == 10_000
