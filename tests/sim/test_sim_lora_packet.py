"""lora-packet, which nobody here wrote, opens what a sensor sends, and a sensor understands what it makes."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.lorawan_crypto import (
    DataUp,
    RefusedError,
    Session,
    read_data,
    read_join_accept,
    write_data,
    write_join_request,
)
from sim.lorawan_mac import MAX_OPTIONS
from tests.shared_data import shared

WITNESS = Path(__file__).parents[1] / "witness"
Ask: TypeAlias = Callable[..., Mapping[str, Any]]
keys = st.binary(min_size=16, max_size=16)
euis = st.integers(0, 2**64 - 1)
sessions = st.builds(Session, st.integers(0, 2**32 - 1), keys, keys)
some = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    node = shutil.which("node")
    if node is None or not (WITNESS / "node_modules" / "lora-packet").is_dir():
        pytest.skip("needs node and tests/witness/node_modules (npm ci in tests/witness)")
    with subprocess.Popen(
        [node, str(WITNESS / "lora_packet.js")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as witness:
        assert witness.stdin is not None
        assert witness.stdout is not None
        into, out = witness.stdin, witness.stdout

        def asked(question: str, **fields: object) -> Mapping[str, Any]:
            into.write(json.dumps({"ask": question, **fields}) + "\n")
            into.flush()
            answer: Mapping[str, Any] = json.loads(out.readline())
            assert "error" not in answer, answer
            return answer

        yield asked
        into.close()


@st.composite
def uplinks(draw: st.DrawFn) -> DataUp:
    port = draw(st.sampled_from([None, 0, 1, 223]) | st.integers(0, 223))
    return DataUp(
        counter=draw(st.integers(0, 2**32 - 1)),
        port=port,
        payload=b"" if port is None else draw(st.binary(min_size=1, max_size=222)),
        confirmed=draw(st.booleans()),
        adr=draw(st.booleans()),
        adr_ack_request=draw(st.booleans()),
        ack=draw(st.booleans()),
        options=b"" if port == 0 else draw(st.binary(max_size=MAX_OPTIONS)),
    )


@some
@given(session=sessions, data=uplinks())
def test_lora_packet_opens_and_verifies_a_sensors_uplinks(ask: Ask, session: Session, data: DataUp) -> None:
    said = ask(
        "read",
        wire=write_data(session, data).hex(),
        network=session.network_key.hex(),
        application=session.application_key.hex(),
        counter=data.counter,
    )
    assert said == {
        "mtype": "Confirmed Data Up" if data.confirmed else "Unconfirmed Data Up",
        "mic": True,
        "dev_addr": f"{session.dev_addr:08x}",
        "counter": data.counter & 0xFFFF,
        "port": data.port,
        "options": data.options.hex(),
        "adr": data.adr,
        "adr_ack_req": data.adr_ack_request,
        "ack": data.ack,
        "pending": False,
        "payload": data.payload.hex(),
    }


@some
@given(
    app_key=keys,
    nonces=st.tuples(st.integers(0, 65535), st.integers(0, 2**24 - 1)),
    dev_addr=st.integers(0, 2**32 - 1),
    windows=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 15)),
    channels=st.sampled_from([(), (867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000)]),
)
def test_a_sensor_understands_the_join_accepts_of_lora_packet(  # noqa: PLR0917  drawn, not passed
    ask: Ask,
    app_key: bytes,
    nonces: tuple[int, int],
    dev_addr: int,
    windows: tuple[int, int, int],
    channels: tuple[int, ...],
) -> None:
    (nonce, app_nonce), (offset, rate, delay) = nonces, windows
    made = ask(
        "write_join_accept",
        app_nonce=f"{app_nonce:06x}",
        net_id="000013",
        dev_addr=f"{dev_addr:08x}",
        settings=f"{offset << 4 | rate:02x}",
        rx_delay=delay,
        cf_list="184f84e85684b85e84886684586e8400" if channels else "",
        app_key=app_key.hex(),
    )
    accept = read_join_accept(app_key, nonce, bytes.fromhex(made["wire"]))
    assert accept.session.dev_addr == dev_addr
    assert (accept.rx1_offset, accept.rx2_data_rate, accept.rx1_delay_s) == windows
    assert accept.channels_hz == channels
    told = ask("join_accept", wire=made["wire"], app_key=app_key.hex(), dev_nonce=f"{nonce:04x}")
    assert told["network"] == accept.session.network_key.hex()
    assert told["application"] == accept.session.application_key.hex()
    damaged = bytearray.fromhex(made["wire"])
    damaged[5] ^= 1
    with pytest.raises(RefusedError, match="wrong_mic"):
        read_join_accept(app_key, nonce, bytes(damaged))


@some
@given(
    session=sessions,
    counters=st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 0xFFFF)),
    content=st.tuples(st.integers(0, 223), st.binary(min_size=1, max_size=100)),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_sensor_opens_the_downlinks_of_lora_packet_and_takes_each_once(
    ask: Ask,
    session: Session,
    counters: tuple[int, int],
    content: tuple[int, bytes],
    flags: tuple[bool, bool, bool],
) -> None:
    counter, behind = counters
    confirmed, ack, pending = flags
    made = ask(
        "write",
        mtype="Confirmed Data Down" if confirmed else "Unconfirmed Data Down",
        dev_addr=f"{session.dev_addr:08x}",
        control={"ACK": ack, "FPending": pending},
        options="",
        port=content[0],
        payload=content[1].hex(),
        network=session.network_key.hex(),
        application=session.application_key.hex(),
        counter=counter,
    )
    wire = bytes.fromhex(made["wire"])
    data = read_data(session, max(-1, counter - behind), wire)
    assert (data.counter, (data.port, data.payload)) == (counter, content)
    assert (data.confirmed, data.ack, data.pending) == flags
    with pytest.raises(RefusedError, match="old_counter"):
        read_data(session, counter, wire)
    with pytest.raises(RefusedError, match="wrong_mic"):
        read_data(session, max(-1, counter - behind), wire[:-1] + bytes((wire[-1] ^ 1,)))


def test_a_sensor_reads_the_published_frames() -> None:
    vectors = json.loads(
        shared("vectors/lorawan.json", "published LoRaWAN frames").read_text(encoding="utf-8")
    )
    by_name = {vector["name"]: vector for vector in vectors}
    join = by_name["OTAA join request"]
    wire = write_join_request(
        bytes.fromhex(join["appKey"]),
        int(join["joinEui"], 16),
        int(join["devEui"], 16),
        int(join["devNonce_be"], 16),
    )
    assert wire.hex() == join["phypayload"]
    accept = by_name["join accept with CFList (867.1,867.3,867.5,867.7,867.9 MHz)"]
    read = read_join_accept(
        bytes.fromhex(accept["appKey"]),
        int(accept["devNonce_be"], 16),
        bytes.fromhex(accept["plain_phypayload"]),
    )
    assert read.session == Session(
        int(accept["devAddr_be"], 16), bytes.fromhex(accept["NwkSKey"]), bytes.fromhex(accept["AppSKey"])
    )
    assert (read.rx1_delay_s, read.rx1_offset, read.rx2_data_rate) == (5, 0, 3)


def test_a_sensor_writes_the_published_uplinks() -> None:
    vectors = json.loads(
        shared("vectors/lorawan.json", "published LoRaWAN frames").read_text(encoding="utf-8")
    )
    written = 0
    for vector in vectors:
        if "nwkSKey" not in vector:
            continue
        fields = vector["fields"]
        session = Session(
            int(fields["devAddr"], 16), bytes.fromhex(vector["nwkSKey"]), bytes.fromhex(vector["appSKey"])
        )
        data = DataUp(
            counter=fields["fCnt16"],
            port=fields["fPort"],
            payload=bytes.fromhex(vector["plaintext"]),
            confirmed=fields["mtype"].startswith("Confirmed"),
            adr=fields["fctrl"]["ADR"],
            adr_ack_request=fields["fctrl"].get("ADRACKReq", False),
            ack=fields["fctrl"]["ACK"],
        )
        assert write_data(session, data).hex() == vector["phypayload"], vector["name"]
        written += 1
    assert written == 3
