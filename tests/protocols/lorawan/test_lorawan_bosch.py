"""A parking sensor's payloads, by the vendor's published examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.lorawan.payloads import CODECS

BOSCH = CODECS["bosch_parking"]


@pytest.mark.parametrize(
    ("port", "payload", "values"),
    [
        (1, "01", {"occupied": True}),
        (1, "00", {"occupied": False}),
        (2, "01ff", {"occupied": True, "temperature": -1}),
        (3, "00" * 16 + "01", {"occupied": True}),
    ],
)
def test_what_it_sends_is_read(port: int, payload: str, values: dict[str, object]) -> None:
    assert BOSCH.decode(port, bytes.fromhex(payload)) == values


@given(port=st.integers(0, 255), payload=st.binary(max_size=60))
def test_anything_else_is_refused(port: int, payload: bytes) -> None:
    if (port, len(payload)) in {(1, 1), (2, 2), (3, 17)}:
        return
    with pytest.raises(RemoteProtocolError):
        BOSCH.decode(port, payload)
