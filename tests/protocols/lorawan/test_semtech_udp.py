"""What packet forwarders send, as they really send it, and what we answer."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.lorawan.airtime import Fsk, Lora
from protocols.lorawan.semtech_udp import (
    MAX_RECEPTIONS,
    PullData,
    PushData,
    Reception,
    Spoiled,
    Transmission,
    TxAck,
    acknowledgement,
    later,
    pull_resp,
    read_datagram,
)

HEAD = bytes.fromhex("02abcd00b827ebfffe012345")
RXPK = {
    "tmst": 3512348611,
    "chan": 2,
    "rfch": 0,
    "freq": 866.349812,
    "stat": 1,
    "modu": "LORA",
    "datr": "SF7BW125",
    "codr": "4/6",
    "rssi": -35,
    "lsnr": 5.1,
    "size": 32,
    "data": "-DS4CGaDCdG+48eJNM3Vai-zDpsR71Pn9CPA9uCON84",
}
"""The specification's own example (PROTOCOL.TXT 4): not padded, and with a "-" of the other alphabet."""


def pushed(*elements: object, head: bytes = HEAD) -> PushData:
    read = read_datagram(head + json.dumps({"rxpk": elements}).encode())
    assert isinstance(read, PushData)
    return read


def test_the_specifications_own_example_is_read() -> None:
    read = pushed(RXPK)
    assert (read.token, read.gateway, read.spoiled) == (0xABCD, 0xB827EBFFFE012345, ())
    (heard,) = read.receptions
    assert heard == Reception(heard.payload, 3512348611, 866_349_812, Lora(7, 125_000), -35.0, 5.1)
    assert heard.payload == base64.b64decode("+DS4CGaDCdG+48eJNM3Vai+zDpsR71Pn9CPA9uCON84=")


@given(payload=st.binary(min_size=1, max_size=255), padded=st.booleans(), url_safe=st.booleans())
def test_base64_of_either_alphabet_padded_or_not_is_read(
    payload: bytes, padded: bool, url_safe: bool
) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(payload).decode()
    read = pushed({**RXPK, "data": text if padded else text.rstrip("="), "size": len(payload)})
    assert [one.payload for one in read.receptions] == [payload]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"stat": -1}, Spoiled.BAD_CRC),
        ({"stat": 0}, Spoiled.BAD_CRC),
        ({"size": 31}, Spoiled.SIZE),
        ({"data": ""}, Spoiled.SIZE),
        ({"data": "AAAA" * 86, "size": 258}, Spoiled.SIZE),
        ({"data": "A" * 1000, "size": 750}, Spoiled.SIZE),
        ({"data": "A"}, Spoiled.MALFORMED),
        ({"data": "AAAA AAAA"}, Spoiled.MALFORMED),
        ({"data": "é" * 8}, Spoiled.MALFORMED),
        ({"data": None}, Spoiled.MALFORMED),
        ({"tmst": 1 << 32}, Spoiled.MALFORMED),
        ({"tmst": -1}, Spoiled.MALFORMED),
        ({"tmst": 1.5}, Spoiled.MALFORMED),
        ({"freq": "868.1"}, Spoiled.MALFORMED),
        ({"freq": 1e300}, Spoiled.MALFORMED),
        ({"rssi": -1e9}, Spoiled.MALFORMED),
        ({"datr": "SF6BW125"}, Spoiled.MODULATION),
        ({"datr": "SF7BW125\n"}, Spoiled.MODULATION),
        ({"datr": 50000}, Spoiled.MODULATION),
        ({"modu": "LR-FHSS"}, Spoiled.MODULATION),
        ({"modu": "FSK", "datr": 0}, Spoiled.MODULATION),
        ({"modu": "FSK", "datr": "50000"}, Spoiled.MODULATION),
    ],
)
def test_a_bad_reception_is_named_and_its_neighbour_is_read(changed: dict[str, object], why: Spoiled) -> None:
    read = pushed({**RXPK, **changed}, RXPK)
    assert read.spoiled == (why,)
    assert len(read.receptions) == 1


def test_what_nobody_checked_is_not_passed_on() -> None:
    read = pushed({key: value for key, value in RXPK.items() if key != "stat"})
    assert read.spoiled == (Spoiled.BAD_CRC,)


@pytest.mark.parametrize("element", [17, None, "text", [], {}, [RXPK]])
def test_an_element_that_is_no_reception_is_malformed(element: object) -> None:
    assert pushed(element, RXPK).spoiled == (Spoiled.MALFORMED,)


def test_fsk_has_a_number_for_its_data_rate() -> None:
    (heard,) = pushed({**RXPK, "modu": "FSK", "datr": 50000}).receptions
    assert heard.modulation == Fsk(50_000)


def test_levels_of_several_antennas_are_the_best_ones() -> None:
    bare = {key: value for key, value in RXPK.items() if key not in {"rssi", "lsnr"}}
    signals = [{"ant": 0, "rssic": -100, "lsnr": 2}, {"ant": 1, "rssic": -90, "lsnr": 7}]
    (heard,) = pushed({**bare, "rsig": signals}).receptions
    assert (heard.rssi_dbm, heard.snr_db) == (-90.0, 7.0)
    (heard,) = pushed(bare).receptions
    assert (heard.rssi_dbm, heard.snr_db) == (0.0, 0.0)


def test_more_receptions_than_any_forwarder_sends_are_left_out_and_counted() -> None:
    read = pushed(*[RXPK] * (MAX_RECEPTIONS + 3))
    assert len(read.receptions) == MAX_RECEPTIONS
    assert read.spoiled == (Spoiled.TOO_MANY,) * 3


@pytest.mark.parametrize(
    "text", [b'{"stat":{"rxnb":2}}', b"{}", b'{"rxpk":[]}\x00', b'{"rxpk":[],"new":1}\r\n']
)
def test_a_push_may_have_nothing_for_us(text: bytes) -> None:
    assert read_datagram(HEAD + text) == PushData(0xABCD, 0xB827EBFFFE012345, ())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"rxpk":1}',
        b'{"rxpk":[NaN]}',
        b"\xff\xfe",
        b'{"a":' * 5000,
        b'{"rxpk":"\xff"}',
        b"null",
    ],
)
def test_a_push_without_json_is_refused(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_datagram(HEAD + text)


def test_a_reception_nested_without_end_is_malformed() -> None:
    deep = b'{"rxpk":[{"a":' + b"[" * 900 + b"]" * 900 + b"}]}"
    read = read_datagram(HEAD + deep)
    assert isinstance(read, PushData)
    assert read.spoiled == (Spoiled.MALFORMED,)


def test_pull_data_says_where_downlinks_go() -> None:
    assert read_datagram(HEAD[:3] + b"\x02" + HEAD[4:]) == PullData(0xABCD, 0xB827EBFFFE012345)


@pytest.mark.parametrize(
    ("text", "error", "warning"),
    [
        (b"", "", ""),
        (b"\x00", "", ""),
        (b'{"txpk_ack":{"error":"NONE"}}', "", ""),
        (b'{"txpk_ack":{"error":"TOO_LATE"}}', "TOO_LATE", ""),
        (b'{"txpk_ack":{"warn":"TX_POWER","value":20}}', "", "TX_POWER"),
        (b'{"txpk_ack":{"error":"' + b"X" * 900 + b'"}}', "UNREADABLE", ""),
        (b'{"txpk_ack":{"error":"\\u001b[2J","warn":"a\\nb"}}', "UNREADABLE", "UNREADABLE"),
        (b"{}", "", ""),
    ],
)
def test_a_tx_ack_says_what_became_of_a_downlink(text: bytes, error: str, warning: str) -> None:
    read = read_datagram(HEAD[:3] + b"\x05" + HEAD[4:] + text)
    assert read == TxAck(0xABCD, 0xB827EBFFFE012345, error, warning)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        HEAD[:11],
        b"\x01" + HEAD[1:],
        HEAD[:3] + b"\x01" + HEAD[4:],
        HEAD[:3] + b"\x03" + HEAD[4:],
        HEAD[:3] + b"\x09" + HEAD[4:],
        HEAD[:3] + b"\x05" + HEAD[4:] + b"no json",
        HEAD + b" " * 65_500,
    ],
)
def test_what_no_forwarder_says_is_refused(datagram: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_datagram(datagram)


@given(noise=st.binary(max_size=200), identifier=st.sampled_from([0, 2, 5]))
def test_noise_is_refused_or_read_and_never_a_surprise(noise: bytes, identifier: int) -> None:
    for datagram in (noise, HEAD[:3] + bytes((identifier,)) + HEAD[4:] + noise):
        try:
            read_datagram(datagram)
        except RemoteProtocolError:
            continue


def test_acknowledgements_carry_the_token_of_what_they_answer() -> None:
    assert acknowledgement(PushData(0xABCD, 1, ())) == bytes.fromhex("02abcd01")
    assert acknowledgement(PullData(0xABCD, 1)) == bytes.fromhex("02abcd04")


def test_a_downlink_is_written_as_a_forwarder_wants_it() -> None:
    datagram = pull_resp(0x1234, Transmission(b"\xfb\xff", 7, 868_100_000, Lora(9, 125_000), 14))
    assert datagram[:4] == bytes.fromhex("02123403")
    assert json.loads(datagram[4:]) == {
        "txpk": {
            "imme": False,
            "tmst": 7,
            "freq": 868.1,
            "rfch": 0,
            "powe": 14,
            "modu": "LORA",
            "datr": "SF9BW125",
            "codr": "4/5",
            "ipol": True,
            "ncrc": True,
            "size": 2,
            "data": "+/8=",
        }
    }


def test_an_fsk_downlink_has_a_deviation_and_a_checksum() -> None:
    txpk = json.loads(pull_resp(0, Transmission(b"x", 7, 868_800_000, Fsk(50_000), 14))[4:])["txpk"]
    assert (txpk["modu"], txpk["datr"], txpk["fdev"], txpk["ncrc"]) == ("FSK", 50_000, 25_000, False)


@pytest.mark.parametrize("size", [0, 256])
def test_a_downlink_that_no_radio_sends_is_not_written(size: int) -> None:
    with pytest.raises(LocalProtocolError):
        pull_resp(0, Transmission(bytes(size), 7, 868_100_000, Lora(9, 125_000), 14))


@given(tmst=st.integers(0, 2**32 - 1), delay_s=st.integers(0, 16))
def test_a_gateways_clock_wraps(tmst: int, delay_s: int) -> None:
    then = later(tmst, delay_s)
    assert 0 <= then < 2**32
    assert (then - tmst) % 2**32 == delay_s * 1_000_000
