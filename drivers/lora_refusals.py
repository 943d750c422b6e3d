"""What radio and forwarders bring that is not taken: counted by reason, told once an hour for each source."""

from collections import Counter
from enum import StrEnum
from typing import Any, Final

from drivers.already_said import AlreadySaid

JOIN_REQUESTS: Final = "join requests"
DATA_FRAMES: Final = "data frames"
DOWNLINKS: Final = "downlinks"
SOURCES: Final = (JOIN_REQUESTS, DATA_FRAMES, DOWNLINKS)
"""Sources that are nobody's name."""


class Refusal(StrEnum):
    """Why something was not taken."""

    # of datagrams
    GARBAGE = "garbage"
    """No datagram that a forwarder sends."""
    GATEWAY_NOT_ALLOWED = "gateway_not_allowed"
    GATEWAY_MOVED = "gateway_moved"
    """PULL_DATA from elsewhere, while the gateway is reachable where it was."""
    TOO_MANY_GATEWAYS = "too_many_gateways"
    STRAY_TX_ACK = "stray_tx_ack"
    """It answers nothing that was sent."""
    # of receptions
    BAD_CRC = "bad_crc"
    MALFORMED = "malformed"
    MODULATION = "modulation"
    SIZE = "size"
    TOO_MANY = "too_many"
    # of frames
    LENGTH = "length"
    """No frame of LoRaWAN R1: its length or its kind."""
    NOT_UPLINK = "not_uplink"
    """Another network's downlink, heard by ours."""
    DATA_RATE = "data_rate"
    """Sent with a modulation that the region does not have."""
    UNKNOWN_DEVICE = "unknown_device"
    """A DevAddr or DevEUI that nobody here has."""
    NO_KEY = "no_key"
    JOIN_EUI = "join_eui"
    WRONG_MIC = "wrong_mic"
    NONCE = "nonce"
    """A DevNonce that was used before: a join request again."""
    COUNTER = "counter"
    """A counter beyond the gap: too many frames were lost, the device has to join again."""
    REPLAY = "replay"
    """A genuine frame, older than the last that was taken."""
    DUPLICATE = "duplicate"
    """The same frame from another antenna: one uplink."""
    REPEATED = "repeated"
    """The last frame sent again by its device, or by somebody."""
    PORT = "port"
    """A port that is no application's."""
    PAYLOAD = "payload"
    """The device's codec refuses it."""
    BUSY = "busy"
    """More is on its way to the disk than is allowed to wait."""
    NOT_KEPT = "not_kept"
    """The disk refused, so it was not passed on."""
    # of downlinks
    NO_PATH = "no_path"
    """No gateway that heard the device can be reached."""
    TOO_LATE = "too_late"
    DUTY_CYCLE = "duty_cycle"
    """Sending would have exceeded a sub-band's share of the hour."""
    NOT_SENT = "not_sent"
    """The gateway refused to send."""


SILENT: Final = frozenset({Refusal.DUPLICATE, Refusal.REPEATED, Refusal.BAD_CRC, Refusal.NOT_UPLINK})
"""What happens every day and is counted only."""


class Refusals:
    """The counters of one line.

    Args:
        log: where each (reason, source) is told, once an hour.
        already: what keeps which were.
    """

    def __init__(self, log: Any, already: AlreadySaid) -> None:  # noqa: ANN401  structlog's loggers share no type
        self.counts: Counter[Refusal] = Counter()
        self._log = log
        self._already = already

    def count(self, reason: Refusal, source: str, detail: str = "") -> None:
        """Count one refusal; tell of it if it is the first of its kind from there within an hour.

        Args:
            reason: why.
            source: a gateway's, device's or host's name.
            detail: for a person; never of a key.
        """
        self.counts[reason] += 1
        line = None if reason in SILENT else self._already.line(source, reason.value)
        if line is not None:
            more = {"detail": detail} if detail else {}
            self._log.warning("refused", reason=reason.value, source=line.who, unsaid=line.unsaid, **more)

    def total(self) -> int:
        """Return how many were refused for what is nobody's daily business."""
        return sum(number for reason, number in self.counts.items() if reason not in SILENT)
