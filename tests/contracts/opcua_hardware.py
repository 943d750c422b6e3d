"""The OPC UA line that the contract is tried on: two pumping stations behind one server."""

from typing import Final

from drivers.settings import DeviceSettings, OpcUa
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, PointName
from sim.faults import FaultSettings
from sim.pumping_station import Station
from tests.contracts.hardware import ASKED, LINE, NEIGHBOUR, StreetBench


class OpcUaBench(StreetBench):
    """Two pumping stations behind one OPC UA server; security is for the driver's own tests."""

    name = "opcua"
    scenario = '[[pumping_station]]\nname = "pumps"\nstations = 2\nsecurity = "none"'
    line = "pumps"
    order = (PointName("level_setpoint"), 2.5)
    forbidden = PointName("level")
    nonsense = 99.0
    names: Final = {ASKED: "pumps-1", NEIGHBOUR: "pumps-2"}

    async def start(self) -> None:
        await super().start()
        self.settings = OpcUa(
            id=LINE,
            url=self.street.state().pumping["pumps"].url,
            security="none",
            period_ms=50,
            timeout_s=0.25,
            keepalive_s=0.5,
            silent_after=2,
            probe_s=0.2,
            probe_bound_s=0.4,
            reconnect_s=0.05,
        )

    def devices(self) -> list[DeviceSettings]:
        return [
            DeviceSettings(id=d, kind=Kind.PUMPING_STATION, line=LINE, address=name, map="pumping_station")
            for d, name in self.names.items()
        ]

    def station(self, device: DeviceId) -> Station:
        return self.street.pumping["pumps"].stations[self.names[device]]

    def point(self, _device: DeviceId) -> PointName:
        return PointName("water_temperature")

    def truth(self, device: DeviceId) -> float:
        return self.station(device).well.temperature_c

    def change(self, device: DeviceId) -> None:
        self.station(device).well.temperature_c += 1.5

    async def speak(self, _device: DeviceId) -> None:
        await self.street.pumping["pumps"].look()

    def ordered(self) -> float:
        return self.station(ASKED).well.setpoint_m

    def heard(self) -> object:
        return self.street.counters().pumping["pumps"].reads

    def target(self, device: DeviceId, fault: str) -> tuple[str, str]:
        return self.names[device], fault

    async def slow_down(self) -> None:
        for name in self.names.values():
            await self.street.fault(name, "late", settings=FaultSettings(delay_s=0.04))

    async def unplug(self) -> None:
        await self.street.fault("pumps", "refused")

    async def plug_in(self) -> None:
        await self.street.clear("pumps", "refused")
