"""node-opcua, an OPC UA client in JavaScript: a foreign witness for the simulated pumping station."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sim.faults import FaultSettings
from sim.scenario import parse
from sim.street import Street
from tests.drivers.opcua_line import make_keys

WITNESS = Path(__file__).parents[1] / "witness"
NODE = shutil.which("node")
PATIENCE_S = 60.0
pytestmark = pytest.mark.skipif(
    NODE is None or not (WITNESS / "node_modules" / "node-opcua-client").exists(),
    reason="needs Node.js and tests/witness/node_modules (scripts/tools installs both)",
)


async def ask(url: str, folder: Path, keys: Path) -> dict[str, Any]:
    assert NODE is not None
    pem = keys / "certificate.pem"
    pem.write_bytes(_pem(keys / "certificate.der"))
    words = [NODE, "opcua_read.js", url, "pumps-1", pem, keys / "key.pem", folder / "node-pki"]
    process = await asyncio.create_subprocess_exec(
        *map(str, words), cwd=WITNESS, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told: dict[str, Any] = json.loads(out.decode().splitlines()[-1])
    return told


def _pem(der: Path) -> bytes:
    return x509.load_der_x509_certificate(der.read_bytes()).public_bytes(Encoding.PEM)


async def test_a_foreign_client_reads_hears_and_commands_a_station(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "opcua")
    scenario = 'control = "sim.sock"\n[[pumping_station]]\n'
    async with Street(parse(scenario), tmp_path) as street:
        trusted = tmp_path / "pumps-pki" / "trusted"
        trusted.mkdir()
        shutil.copy(keys / "certificate.der", trusted)
        pumping = street.pumping["pumps"]
        well = pumping.stations["pumps-1"].well
        await street.fault("pumps-1", "uncertain", settings=FaultSettings())
        told = await ask(pumping.state().url, tmp_path, keys)
        state = well.state()
    assert told["read"]["WaterTemperature"] == {
        "value": 14.0,
        "type": "Double",
        "status": "UncertainLastUsableValue",
    }
    assert told["read"]["Mode"] == {"value": 1, "type": "Int32", "status": "Good"}
    assert told["read"]["HighLevel"] == {"value": False, "type": "Boolean", "status": "Good"}
    assert told["read"]["Pump1/Starts"] == {"value": 0, "type": "UInt32", "status": "Good"}
    assert told["heard"] == [1, 2]
    assert told["calls"] == {
        "tooEarly": "BadInvalidState",
        "mode": "Good",
        "start": "Good",
        "nonsense": "BadOutOfRange",
    }
    assert told["writes"] == {"setpoint": "Good", "level": "BadUserAccessDenied"}
    assert told["after"]["running"] == {"value": True, "type": "Boolean", "status": "Good"}
    assert (state.running[0], state.mode, state.setpoint_m) == (True, 2, 2.5)
