"""Form feeds (core 3.2.2, Transport of data, Wrapping of packets)."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.errors import LocalProtocolError
from protocols.rsmp.framing import Framing, wrap
from protocols.rsmp.messages import Fault, MessageError

BOUND = 20


def heard(framing: Framing, pieces: list[bytes]) -> list[bytes | Fault]:
    found: list[bytes | Fault] = []
    for piece in pieces:
        framing.receive_data(piece)
        while True:
            try:
                packet = framing.next_packet()
            except MessageError as error:
                found.append(error.fault)
                continue
            if packet is None:
                break
            found.append(packet)
    return found


def pieces(wire: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    return [wire[a:b] for a, b in pairwise(at)]


packets = st.lists(st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\x0c", b"-")), max_size=6)


@given(packets, st.lists(st.integers(0, 500)), st.integers(1, 3), st.integers(0, 2))
@example([b"x" * 21], [21], 1, 0)
@example([b"x" * 20, b"y"], [20], 1, 0)
def test_any_split_gives_the_same_packets(
    sent: list[bytes], cuts: list[int], repeated: int, leading: int
) -> None:
    wire = b"\x0c" * leading + b"".join(packet + b"\x0c" * repeated for packet in sent)
    expected = [packet if len(packet) <= BOUND else Fault.TOO_LONG for packet in sent]
    assert heard(Framing(BOUND), pieces(wire, cuts)) == expected


def test_no_more_than_the_bound_is_held() -> None:
    framing = Framing(BOUND)
    assert heard(framing, [b"x" * 1000] * 100) == [Fault.TOO_LONG]
    assert len(framing._held) == 0
    assert heard(framing, [b"x\x0cgood\x0c"]) == [b"good"]


def test_a_packet_is_sent_with_one_form_feed() -> None:
    assert wrap(b"{}") == b"{}\x0c"
    for wrong in (b"", b"\x0c", b"a\x0cb"):
        with pytest.raises(LocalProtocolError):
            wrap(wrong)
