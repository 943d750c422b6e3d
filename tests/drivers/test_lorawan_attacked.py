"""The line under attack by the simulator's attacker, which shares no code with it, and in the simulator's air."""

import asyncio
from pathlib import Path

import pytest

from drivers.base import RadioDriver
from drivers.lorawan import LorawanDriver, open_lorawan
from drivers.settings import DeviceSettings
from protocols.lorawan.payloads import CODECS
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId, PointName
from protocols.model.reading import Sample
from sim.faults import FaultSettings, RadioFault
from sim.lorawan_attack import Victim, forgeries
from sim.lorawan_node import Node
from sim.radio import Radio
from sim.radio_settings import RadioSettings, SensorSettings
from sim.radio_truth import Truth
from tests.contracts.lorawan_hardware import FastSchedule
from tests.drivers.air import BAY_EUI, LINE, RealClock, air, free_port, settings

TURNED_AWAY = (
    "length", "not_uplink", "unknown_device", "no_key", "join_eui", "wrong_mic", "nonce", "counter", "replay",
    "duplicate", "repeated", "size", "data_rate",
)  # fmt: skip


async def test_of_ten_thousand_replays_and_forgeries_none_is_taken_and_each_is_counted(
    tmp_path: Path,
) -> None:
    async with air(tmp_path) as line:
        gateway = await line.forwarder()
        join = line.bay.join_request()
        gateway.push(join)
        line.bay.take_accept((await line.downlink(gateway, 0)).wire)
        genuine = [line.bay.uplink(bytes((number & 1,)), confirmed=number % 3 == 0) for number in range(40)]
        for wire in genuine:
            gateway.push(wire)
        await line.until(lambda: line.count("uplinks") == 40)
        await line.settled(gateway)
        told, downlinks, commits = len(line.said), len(gateway.downlinks), line.count("commits")
        victim = Victim(line.bay.dev_addr, tuple(genuine), 40, BAY_EUI, line.bay.join_eui, (join,))
        before = sum(line.count(name) for name in TURNED_AWAY)
        attacks = forgeries(victim, 10_000, 7)
        for start in range(0, len(attacks), 100):
            for forgery in attacks[start : start + 100]:
                gateway.push(forgery.frame)
            await line.settled(gateway)
        assert (len(line.said), line.count("uplinks"), line.count("joins")) == (told, 40, 1)
        assert sum(line.count(name) for name in TURNED_AWAY) - before == 10_000
        assert (
            line.count("commits") - commits <= len(gateway.downlinks) - downlinks
        )  # re-acknowledgements only
        assert len(gateway.downlinks) - downlinks <= 8
        gateway.push(line.bay.uplink(b"\x01"))
        await line.until(lambda: line.count("uplinks") == 41)


class Street:
    """Sensors of the simulator, fast, with a driver that listens to them."""

    def __init__(self, folder: Path, *makes: str, **more: object) -> None:
        port = free_port()
        names = [f"sensor-{number}" for number in range(len(makes))]
        self.folder = folder
        self.line = settings(port, dedup_s=0.01, lead_s=0.0)
        self.schedule = FastSchedule(asyncio.get_running_loop())
        sensors = tuple(
            SensorSettings(
                name=name,
                device=make,
                dev_eui=f"{number + 1:016x}",
                app_key=f"{number + 1:032x}",
                every_s=20.0,
                **more,  # type: ignore[arg-type]
            )
            for number, (name, make) in enumerate(zip(names, makes, strict=True))
        )
        radio = RadioSettings(
            name="radio-1", gateway_eui="b827ebfffe012345", port=port, spread_s=1.0, sensors=sensors
        )
        self.radio = Radio(
            radio,
            self.schedule,
            seed=3,
            truth=lambda name: Truth(name, 1_790_000_000_000, 30.0),
            utc_ms=lambda: 0,
        )
        self.devices = [
            DeviceSettings(
                id=DeviceId(one.name),
                kind=CODECS[one.device].kind,
                line=LINE,
                address=one.dev_eui,
                map=one.device,
            )
            for one in sensors
        ]
        self.keys = {DeviceId(one.name): bytes.fromhex(one.app_key) for one in sensors}
        self.driver: LorawanDriver = open_lorawan(self.line, self.devices, RealClock(), folder)
        self.said: list[Sample] = []
        self.driver.on_sample = self.said.append

    async def __aenter__(self) -> "Street":
        assert isinstance(self.driver, RadioDriver)
        for device, key in self.keys.items():
            await self.driver.admit(device, key)
        self.task = asyncio.create_task(self.driver.run())
        await self.radio.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.radio.close()
        await asyncio.sleep(0)

    def node(self, number: int = 0) -> Node:
        return self.radio.nodes[f"sensor-{number}"]

    def told(self, number: int = 0) -> dict[str, object]:
        told: dict[str, object] = {}
        for one in self.said:
            if one.device == f"sensor-{number}":
                told |= dict(zip(one.points, one.values, strict=True))
        return told

    async def until(self, condition: object, patience_s: float = 20.0) -> None:
        assert callable(condition)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(patience_s):
            while not condition():
                passed = loop.create_future()
                loop.call_later(0.005, passed.set_result, None)
                await passed


async def test_what_sensors_of_six_makes_measure_arrives_as_it_is(tmp_path: Path) -> None:
    makes = (
        *("bosch-tps110", "decentlab-dl-mbx", "milesight-wts506"),
        *("milesight-am308", "axioma-qalcosonic-w1", "milesight-ws302"),
    )
    async with Street(tmp_path, *makes) as street:
        for number in range(len(makes)):
            await street.until(lambda: street.node(number).counters.uplinks and street.told(number))  # noqa: B023
            true = street.node(number).reported
            told = street.told(number)
            assert {name: told.get(name) for name in true} == pytest.approx(true)


async def test_confirmed_uplinks_are_acknowledged_through_loss_and_copies(tmp_path: Path) -> None:
    async with Street(tmp_path, "decentlab-dl-mbx", confirmed=True) as street:
        await street.until(lambda: street.said)
        street.radio.begin_fault("sensor-0", RadioFault.LOST, FaultSettings(probability=0.3))
        street.radio.begin_fault("sensor-0", RadioFault.DUPLICATE, FaultSettings())
        street.radio.begin_fault("", RadioFault.REPLAY, FaultSettings(every_s=1.0))
        street.radio.begin_fault("", RadioFault.FORGED, FaultSettings(every_s=1.0))
        street.radio.begin_fault("", RadioFault.GARBAGE, FaultSettings(every_s=1.0))
        begun = street.node().counters.acks_heard
        await street.until(lambda: street.node().counters.acks_heard >= begun + 5)
        counters = [value for one in street.said for value in one.values[-1:]]
        assert counters == sorted(set(counters))  # type: ignore[type-var]
        assert len(street.said) <= street.node().counters.uplinks
        assert street.radio.air.forged > 0 < street.radio.air.replays


async def test_a_switch_is_thrown_and_says_so(tmp_path: Path) -> None:
    async with Street(tmp_path, "milesight-ws558") as street:
        await street.until(lambda: street.said)
        written = await street.driver.write(DeviceId("sensor-0"), PointName("switch_3"), True)
        assert written.state in {CommandState.VERIFIED, CommandState.APPLIED}
        assert street.radio.devices["sensor-0"].switches == 0b100
        await street.until(lambda: street.told()["switch_3"] is True)


async def test_a_sensor_that_starts_its_counter_anew_is_refused_until_it_joins_again(tmp_path: Path) -> None:
    async with Street(tmp_path, "decentlab-dl-mbx") as street:
        await street.until(lambda: len(street.said) >= 3)
        street.radio.begin_fault("sensor-0", RadioFault.COUNTER_RESET, FaultSettings())
        await street.until(lambda: street.driver.counters()["wrong_mic"] + street.driver.counters()["replay"])
        told, joins = len(street.said), street.driver.counters()["joins"]
        street.radio.end_fault("sensor-0", RadioFault.COUNTER_RESET)
        await street.until(lambda: len(street.said) > told)
        assert street.driver.counters()["joins"] > joins
