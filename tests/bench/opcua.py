"""A thousand nodes of a real server, read in bulk: the driver as `open_line` gives it, beside bare asyncua.

Server, driver and bare client are three processes; driver and client ask the same server for the same nodes over
Basic256Sha256, signed and encrypted, in turn. Only values that are good and true are counted.
"""

import asyncio
import shutil
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from asyncua import Client, Server, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

from drivers.base import LineState
from drivers.opcua_certificates import make_certificate
from drivers.registry import open_line
from drivers.settings import DeviceSettings, OpcUa
from edge.clock import SystemClock
from protocols.clock import Instant
from protocols.model.device import Kind
from protocols.model.ids import CabinetId, DeviceId, LineId, PointName
from protocols.opcua.nodes import Entry, NodeMap, NodeType
from sim.opcua_certificates import make_identity
from tests.bench.report import Figure, figure
from tests.bench.worker import Spell, Worker, idle, serve

NODES = 1000
SPELL_S = 3.0
NAMESPACE = "urn:luciole:bench"
APPLICATION = "urn:luciole:bench:server"
DEVICE, LINE = DeviceId("plc"), LineId("plc-1")


def value_at(number: int) -> float:
    """Return what a node holds."""
    return number + 0.25


# --- the three processes ---


async def be_server(folder: Path) -> None:
    """Be asyncua's own server, whole, with one object of a thousand numbers."""
    server = Server()
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0")
    await server.set_application_uri(APPLICATION)
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    identity = make_identity(folder / "server", APPLICATION, "127.0.0.1", datetime.now(UTC))
    await server.load_certificate(identity.certificate)
    await server.load_private_key(identity.key)
    index = await server.register_namespace(NAMESPACE)
    plc = await server.nodes.objects.add_object(ua.NodeId("plc", index), ua.QualifiedName("plc", index))
    for number in range(NODES):
        name = f"v{number:04d}"
        await plc.add_variable(ua.NodeId(name, index), ua.QualifiedName(name, index), value_at(number))
    async with server:
        port = server.bserver._server.sockets[0].getsockname()[1]
        await idle(f"opc.tcp://127.0.0.1:{port}")


async def be_driver(url: str, folder: Path) -> None:
    """Be the line's driver, and read its device over and over."""
    entries = tuple(
        Entry(point=PointName(f"v{number:04d}"), node=f"s=v{number:04d}", type=NodeType.F64, poll_s=1.0)
        for number in range(NODES)
    )
    nodes = NodeMap(name="thousand", namespace=NAMESPACE, entries=entries)
    device = DeviceSettings(id=DEVICE, kind=Kind.SENSOR, line=LINE, address="plc", map=nodes.name)
    driver = open_line(OpcUa(id=LINE, url=url), [device], {}, SystemClock(), folder, nodes=[nodes])
    points = [entry.point for entry in entries]
    true = tuple(value_at(number) for number in range(NODES))
    task = asyncio.create_task(driver.run())
    while driver.health().state is not LineState.UP:
        await asyncio.sleep(0.05)
        if driver.health().state is LineState.DOWN:
            raise RuntimeError(driver.health().reason)

    async def step() -> int:
        sample = await driver.read(DEVICE, points)
        if sample.faults or sample.values != true:
            raise RuntimeError(f"not what the nodes hold: {sample.faults}")
        return len(sample.values)

    await serve(step)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def be_bare(url: str, folder: Path) -> None:
    """Be asyncua's own client, and read the same nodes over and over, as its documentation says."""
    client = Client(url)
    client.application_uri = f"urn:luciole:{_CABINET}"
    client.certificate_validator = CertificateValidator(CertificateValidatorOptions.BASIC_VALIDATION)
    own, server = folder / "opcua", folder / "server" / "server.der"
    await client.set_security(
        SecurityPolicyBasic256Sha256, str(own / "certificate.der"), str(own / "key.pem"), None, str(server)
    )
    true = [value_at(number) for number in range(NODES)]
    async with client:
        index = await client.get_namespace_index(NAMESPACE)
        nodes = [client.get_node(ua.NodeId(f"v{number:04d}", index)) for number in range(NODES)]

        async def step() -> int:
            values = await client.read_values(nodes)
            if values != true:
                raise RuntimeError("not what the nodes hold")
            return len(values)

        await serve(step)


# --- the comparison ---

_CABINET = CabinetId("bench")


def figures(folder: Path, rounds: int) -> list[Figure]:
    """Measure."""
    folder.mkdir()
    now_ms = time.time_ns() // 1_000_000
    make_certificate(folder / "opcua", _CABINET, Instant(0, now_ms))
    name = "tests.bench.opcua"
    server = Worker([name, "server", str(folder)], folder / "server.log")
    url = server.said.strip().strip('"')
    shutil.copy(folder / "server" / "server.der", folder / "opcua" / "trusted" / "server.der")
    ours: list[Spell] = []
    theirs: list[Spell] = []
    try:
        driver = Worker([name, "driver", url, str(folder)], folder / "driver.log")
        bare = Worker([name, "bare", url, str(folder)], folder / "bare.log")
        for worker in (driver, bare):
            worker.work(0.5)  # the first reads warm up both ends
        for _ in range(rounds):
            ours.append(driver.work(SPELL_S))
            theirs.append(bare.work(SPELL_S))
        driver.stop()
        bare.stop()
    finally:
        server.stop()
    ratio = statistics.median(mine.per_s / his.per_s for mine, his in zip(ours, theirs, strict=True))
    mine_per_s, his_per_s = (statistics.median(one.per_s for one in side) for side in (ours, theirs))
    mine_us, his_us = (statistics.median(one.cpu_us for one in side) for side in (ours, theirs))
    return [
        figure(
            "opcua_values_per_s_ratio_to_asyncua_bulk",
            ratio,
            "ratio",
            ">= 0.8",
            f"{NODES} nodes, Basic256Sha256, {rounds} rounds in turn",
        ),
        figure("opcua_values_per_s", mine_per_s, "1/s", "", f"bare asyncua {his_per_s:.0f}/s"),
        figure("opcua_cpu_us_per_value", mine_us, "us", "", f"bare asyncua {his_us:.1f} us"),
    ]


def _main() -> None:
    match sys.argv[1:]:
        case ["server", folder]:
            asyncio.run(be_server(Path(folder)))
        case ["driver", url, folder]:
            asyncio.run(be_driver(url, Path(folder)))
        case ["bare", url, folder]:
            asyncio.run(be_bare(url, Path(folder)))


if __name__ == "__main__":
    _main()
