"""The RSMP line that the contract is tried on: a simulated signal controller, its junction and one of its detectors.

A controller's components do not fall silent one by one, so that they do it on the way: `Between` stands on the wire,
and takes away, holds back or damages what is told of one of them.
"""

import asyncio
import contextlib
import socket
from typing import Any, Final

import msgspec

from drivers.settings import DeviceSettings, Rsmp
from protocols.model.device import Kind
from protocols.model.ids import DeviceId, PointName
from sim.junction import Junction
from tests.contracts.hardware import ASKED, LINE, NEIGHBOUR, StreetBench

MAIN: Final = "LU+DJ0001=001TC000"
DETECTOR: Final = "LU+DJ0001=001DL001"
TOLD: Final = {"StatusUpdate", "StatusResponse", "CommandResponse"}
CODES: Final = {ASKED: {"S0001", "S0014", "S0020", "S0033", "M0002"}, NEIGHBOUR: {"S0002"}}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def about(message: dict[str, Any], device: DeviceId) -> bool:
    """Tell whether a site's message says something of a device."""
    parts = [*message.get("sS", ()), *message.get("rvs", ())] if message["type"] in TOLD else []
    return any(part.get("sCI", part.get("cCI")) in CODES[device] for part in parts)


class Between:
    """A port that carries everything to the supervisor, but for what is wrong with one of the devices."""

    def __init__(self, supervisor: int) -> None:
        self.port = free_port()
        self.faults: dict[DeviceId, tuple[str, float]] = {}
        self._supervisor = supervisor
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, site: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._keep(own)
        writer = back
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._supervisor)
            down = asyncio.create_task(self._down(reader, back))
            self._keep(down)
            while packet := await site.readuntil(b"\x0c"):
                self._up(packet, writer, back)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()

    async def _down(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while received := await reader.read(65536):
                back.write(received)
        back.transport.abort()

    def _up(self, packet: bytes, writer: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        told = msgspec.json.decode(packet[:-1])
        name, delay_s = next((f for device, f in self.faults.items() if about(told, device)), ("", 0.0))
        if name == "silent":
            ack = {"mType": "rSMsg", "type": "MessageAck", "oMId": told["mId"]}
            back.write(msgspec.json.encode(ack) + b"\x0c")
        elif name == "late":
            asyncio.get_running_loop().call_later(delay_s, writer.write, packet)
        else:
            writer.write(packet.replace(b":", b";", 1) if name == "garbled" else packet)

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class RsmpBench(StreetBench):
    """A signal controller and its first detector. It is still starting, so that it takes up a plan at once."""

    name = "rsmp"
    line = "junction-1"
    order = (PointName("time_plan"), 2.0)
    forbidden = PointName("stage")
    nonsense = 256

    async def start(self) -> None:
        supervisor = free_port()
        self.between = Between(supervisor)
        await self.between.start()
        self.scenario = f"""
            [[junction]]
            name = "junction-1"
            port = {self.between.port}
            reconnect_s = 0.05
            [junction.design]
            start_flash_s = 60
        """
        await super().start()
        self.settings = Rsmp(
            id=LINE,
            port=supervisor,
            site=MAIN,
            security_code="2222",
            connect_timeout_s=0.4,
            handshake_timeout_s=5.0,
            ack_timeout_s=5.0,
            response_timeout_s=0.25,
            update_s=1,
            silent_after=2,
            probe_s=0.2,
            probe_bound_s=0.4,
            reconnect_s=0.05,
        )

    async def stop(self) -> None:
        await super().stop()
        await self.between.stop()

    def devices(self) -> list[DeviceSettings]:
        return [
            DeviceSettings(id=ASKED, kind=Kind.JUNCTION, line=LINE, address=MAIN),
            DeviceSettings(id=NEIGHBOUR, kind=Kind.DETECTOR, line=LINE, address=DETECTOR),
        ]

    @property
    def junction(self) -> Junction:
        return self.street.junctions["junction-1"].junction

    @property
    def detector(self) -> str:
        return next(iter(self.junction.detectors()))

    def point(self, device: DeviceId) -> PointName:
        return PointName("time_plan" if device == ASKED else "occupied")

    def truth(self, device: DeviceId) -> float:
        if device == ASKED:
            return self.junction.plan.number
        return self.junction.detectors()[self.detector]

    def change(self, device: DeviceId) -> None:
        if device == ASKED:
            self.junction.command_plan(3 - self.junction.plan.number)
        else:
            self.junction.detect(self.detector, not self.truth(NEIGHBOUR))

    def ordered(self) -> float:
        return self.junction.plan.number

    def heard(self) -> object:
        received = self.street.junctions["junction-1"].counters().received
        return {kind: received.get(kind) for kind in ("StatusRequest", "CommandRequest")}

    async def fault(self, device: DeviceId, name: str, delay_s: float | None = None) -> None:
        self.between.faults[device] = (name, delay_s or 0.0)

    async def heal(self, device: DeviceId) -> None:
        self.between.faults.pop(device, None)

    async def slow_down(self) -> None:
        for device in CODES:
            await self.fault(device, "late", 0.04)

    def target(self, _device: DeviceId, fault: str) -> tuple[str, str]:
        return self.line, fault

    async def unplug(self) -> None:
        await self.street.fault(self.line, "disconnected")

    async def plug_in(self) -> None:
        await self.street.clear(self.line, "disconnected")
