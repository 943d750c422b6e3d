"""lora-packet, an implementation that nobody here wrote, reads what we write, and we read what it writes."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.lorawan.frame import DataFrame, JoinAccept, JoinRequest, read_frame
from protocols.lorawan.security import (
    Key,
    SessionKeys,
    is_genuine,
    is_genuine_join,
    open_join_accept,
    open_payload,
    seal,
    seal_join_accept,
    seal_join_request,
    session_keys,
)

WITNESS = Path(__file__).parents[2] / "witness"
Ask: TypeAlias = Callable[..., Mapping[str, Any]]
MTYPES = {
    (True, False): "Unconfirmed Data Up",
    (False, False): "Unconfirmed Data Down",
    (True, True): "Confirmed Data Up",
    (False, True): "Confirmed Data Down",
}
keys_of_16 = st.binary(min_size=16, max_size=16)
counters = st.integers(0, 0xFFFFFFFF)
some = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
def frames(draw: st.DrawFn) -> DataFrame:
    uplink = draw(st.booleans())
    port = draw(st.none() | st.integers(0, 255))
    return DataFrame(
        uplink=uplink,
        confirmed=draw(st.booleans()),
        dev_addr=draw(st.integers(0, 0xFFFFFFFF)),
        counter=0,
        adr=draw(st.booleans()),
        adr_ack_req=uplink and draw(st.booleans()),
        ack=draw(st.booleans()),
        pending=draw(st.booleans()),
        options=b"" if port == 0 else draw(st.binary(max_size=15)),
        port=port,
        payload=b"" if port is None else draw(st.binary(min_size=1, max_size=200)),
    )


@given(frame=frames(), network=keys_of_16, application=keys_of_16, counter=counters)
@some
def test_what_we_write_lora_packet_reads_and_verifies(
    ask: Ask, frame: DataFrame, network: bytes, application: bytes, counter: int
) -> None:
    wire = seal(SessionKeys(Key(network), Key(application)), frame, counter)
    said = ask("read", wire=wire.hex(), network=network.hex(), application=application.hex(), counter=counter)
    assert said == {
        "mtype": MTYPES[frame.uplink, frame.confirmed],
        "mic": True,
        "dev_addr": f"{frame.dev_addr:08x}",
        "counter": counter & 0xFFFF,
        "port": frame.port,
        "options": frame.options.hex(),
        "adr": frame.adr,
        "adr_ack_req": frame.adr_ack_req,
        "ack": frame.ack,
        "pending": frame.pending,
        "payload": frame.payload.hex(),
    }


@given(frame=frames(), network=keys_of_16, application=keys_of_16, counter=counters)
@some
def test_what_lora_packet_writes_we_read_and_verify(
    ask: Ask, frame: DataFrame, network: bytes, application: bytes, counter: int
) -> None:
    control = {"ADR": frame.adr, "ADRACKReq": frame.adr_ack_req, "ACK": frame.ack, "FPending": frame.pending}
    written = ask(
        "write",
        mtype=MTYPES[frame.uplink, frame.confirmed],
        dev_addr=f"{frame.dev_addr:08x}",
        control=control,
        options=frame.options.hex(),
        port=frame.port,
        payload=frame.payload.hex(),
        network=network.hex(),
        application=application.hex(),
        counter=counter,
    )
    wire = bytes.fromhex(written["wire"])
    keys = SessionKeys(Key(network), Key(application))
    read = read_frame(wire)
    assert isinstance(read, DataFrame)
    assert is_genuine(wire, keys.network, read, counter)
    assert open_payload(keys, read, counter) == frame.payload
    assert wire == seal(keys, frame, counter)


@given(
    app_key=keys_of_16,
    join_eui=st.integers(0, 2**64 - 1),
    dev_eui=st.integers(0, 2**64 - 1),
    nonce=st.integers(0, 65535),
)
@some
def test_both_agree_about_join_requests(
    ask: Ask, app_key: bytes, join_eui: int, dev_eui: int, nonce: int
) -> None:
    fields = {"join_eui": f"{join_eui:016x}", "dev_eui": f"{dev_eui:016x}", "dev_nonce": f"{nonce:04x}"}
    ours = seal_join_request(Key(app_key), JoinRequest(join_eui, dev_eui, nonce))
    said = ask("join_request", wire=ours.hex(), app_key=app_key.hex())
    assert said == {"mtype": "Join Request", "mic": True, **fields}
    theirs = bytes.fromhex(ask("write_join_request", app_key=app_key.hex(), **fields)["wire"])
    assert theirs == ours
    assert is_genuine_join(theirs, Key(app_key))


@given(
    app_key=keys_of_16,
    accept=st.builds(
        JoinAccept,
        app_nonce=st.integers(0, 2**24 - 1),
        net_id=st.integers(0, 2**24 - 1),
        dev_addr=st.integers(0, 2**32 - 1),
        rx1_offset=st.integers(0, 7),
        rx2_data_rate=st.integers(0, 15),
        rx_delay_s=st.integers(1, 15),
        cf_list=st.just(()) | st.tuples(*[st.integers(0, 2**24 - 1).map(lambda step: step * 100)] * 5),
    ),
    nonce=st.integers(0, 65535),
)
@some
def test_both_agree_about_join_accepts_and_the_keys_of_the_session(
    ask: Ask, app_key: bytes, accept: JoinAccept, nonce: int
) -> None:
    key = Key(app_key)
    ours = seal_join_accept(key, accept)
    listed = b"".join((hz // 100).to_bytes(3, "little") for hz in accept.cf_list)
    fields: dict[str, Any] = {
        "app_nonce": f"{accept.app_nonce:06x}",
        "net_id": f"{accept.net_id:06x}",
        "dev_addr": f"{accept.dev_addr:08x}",
        "settings": f"{accept.rx1_offset << 4 | accept.rx2_data_rate:02x}",
        "rx_delay": accept.rx_delay_s,
        "cf_list": (listed + b"\0").hex() if listed else "",
    }
    keys = session_keys(key, accept.app_nonce, accept.net_id, nonce)
    said = ask("join_accept", wire=ours.hex(), app_key=app_key.hex(), dev_nonce=f"{nonce:04x}")
    derived = {"network": keys.network.reveal().hex(), "application": keys.application.reveal().hex()}
    assert said == {"mic": True, **fields, **derived}
    if fields["settings"][0] < "8":  # the witness takes bit 7 for LoRaWAN 1.1, which we never set
        theirs = bytes.fromhex(ask("write_join_accept", app_key=app_key.hex(), **fields)["wire"])
        assert theirs == ours
        assert open_join_accept(key, theirs) == accept
