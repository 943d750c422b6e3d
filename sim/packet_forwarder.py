"""A Semtech UDP packet forwarder, as it runs on a gateway (GWMP version 2; Lora-net packet_forwarder PROTOCOL 1.4).

It has two sockets, as the original does: one pushes what the concentrator has heard, the other pulls what it is
to transmit. The concentrator counts microseconds in 32 bits and wraps every 71.6 minutes. A downlink is taken only
if its moment can still be met, does not meet another one's, and lies in the band; each is answered by TX_ACK.
"""

import base64
import binascii
import random
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from sim.lorawan_band import BAND_HZ, airtime_s, rate_name, rate_of
from sim.lorawan_node import Burst, Sent
from sim.schedule import Schedule, Timer

VERSION = 2
PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)
KEEP_ALIVE_S = 10.0
STATUS_S = 30.0
MIN_LEAD_S = 0.03
"""The concentrator must be told at least this much before."""
MAX_LEAD_S = 384.0
GUARD_S = 0.001
MAX_POWER_DBM = 27
MAX_QUEUE = 32
"""As the original's just-in-time queue."""
_WRAP = 1 << 32
_HEADER = 4


class TxError(StrEnum):
    """What TX_ACK may say."""

    NONE = "NONE"
    TOO_LATE = "TOO_LATE"
    TOO_EARLY = "TOO_EARLY"
    COLLISION_PACKET = "COLLISION_PACKET"
    TX_FREQ = "TX_FREQ"
    GPS_UNLOCKED = "GPS_UNLOCKED"


class Txpk(msgspec.Struct, frozen=True):
    """What a server asks to be transmitted; only what this forwarder reads."""

    freq: float
    modu: str
    datr: str
    codr: str
    size: int
    data: str
    rfch: int
    imme: bool = False
    tmst: int | None = None
    tmms: int | None = None
    powe: int = 14
    ipol: bool = False
    ncrc: bool = False


class PullResp(msgspec.Struct, frozen=True):
    """The JSON of a PULL_RESP."""

    txpk: Txpk


class ForwarderCounters(msgspec.Struct):
    """What a forwarder has counted.

    Attributes:
        received: frames with a good CRC.
        received_bad: frames without.
        pushed: PUSH_DATA datagrams.
        pushes_acked: of them.
        pulled: PULL_DATA datagrams.
        pulls_acked: of them.
        responses: PULL_RESP datagrams.
        unreadable: datagrams from the server that mean nothing.
        transmitted: downlinks that went on the air.
        airtime_s: of these.
        answers: TX_ACKs by what they said.
    """

    received: int = 0
    received_bad: int = 0
    pushed: int = 0
    pushes_acked: int = 0
    pulled: int = 0
    pulls_acked: int = 0
    responses: int = 0
    unreadable: int = 0
    transmitted: int = 0
    airtime_s: float = 0.0
    answers: dict[str, int] = {}


class Heard(msgspec.Struct, frozen=True):
    """A frame as the concentrator has heard it.

    Attributes:
        good: whether its CRC is right.
    """

    burst: Burst
    rssi_dbm: int
    snr_db: float
    good: bool = True


class PacketForwarder:
    """One gateway.

    Args:
        eui: of the gateway, as it is printed.
        schedule: the only time it has.
        rng: of tokens.
        transmit: called when a downlink begins.
        utc_ms: tells the wall clock's time.
        counter_us: what the concentrator's counter is at the start.

    Attributes:
        push: sends a datagram from the socket that pushes.
        pull: sends a datagram from the socket that pulls.
        refuse_all: a fault: every downlink is too late.
    """

    push: Callable[[bytes], None]
    pull: Callable[[bytes], None]

    def __init__(
        self,
        eui: int,
        schedule: Schedule,
        rng: random.Random,
        *,
        transmit: Callable[[Sent], None],
        utc_ms: Callable[[], int],
        counter_us: int,
    ) -> None:
        self.counters = ForwarderCounters()
        self.refuse_all = False
        self._eui = eui.to_bytes(8)
        self._schedule = schedule
        self._rng = rng
        self._transmit = transmit
        self._utc_ms = utc_ms
        self._origin_s = schedule.time()
        self._counter_us = counter_us
        self._pending: set[int] = set()
        self._queue: list[Sent] = []
        self._timers: dict[str, Timer] = {}

    def start(self) -> None:
        """Begin to keep the way open and to say how it is."""
        self._keep_alive(self._schedule.time())
        self._later("status", self._schedule.time() + STATUS_S, self._status)

    def stop(self) -> None:
        """End everything."""
        for timer in self._timers.values():
            timer.cancel()

    def counter_at(self, at_s: float) -> int:
        """Return the concentrator's counter at a moment, microseconds."""
        return (self._counter_us + round((at_s - self._origin_s) * 1e6)) % _WRAP

    # --- up -------------------------------------------------------------------------------------------

    def hear(self, heard: list[Heard]) -> bytes:
        """Tell the server of frames that were heard at one moment, and return the datagram."""
        for one in heard:
            self.counters.received += one.good
            self.counters.received_bad += not one.good
        return self._push_json({"rxpk": [self._rxpk(one) for one in heard]})

    def push_again(self, datagram: bytes) -> None:
        """Send a datagram a second time, as a network may."""
        self.counters.pushed += 1
        self.push(datagram)

    def _rxpk(self, heard: Heard) -> dict[str, object]:
        burst = heard.burst
        return {
            "time": self._time().isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "tmst": self.counter_at(burst.end_s),
            "chan": burst.frequency_hz // 200_000 % 8,
            "rfch": int(burst.frequency_hz < 868_000_000),
            "freq": burst.frequency_hz / 1e6,
            "stat": 1 if heard.good else -1,
            "modu": "LORA",
            "datr": rate_name(burst.data_rate),
            "codr": "4/5",
            "rssi": heard.rssi_dbm,
            "lsnr": heard.snr_db,
            "size": len(burst.frame),
            "data": base64.b64encode(burst.frame).decode(),
        }

    def _push_json(self, content: dict[str, object]) -> bytes:
        datagram = self._header(PUSH_DATA) + self._eui + msgspec.json.encode(content)
        self._expect(datagram)
        self.counters.pushed += 1
        self.push(datagram)
        return datagram

    def _header(self, kind: int) -> bytes:
        return bytes((VERSION,)) + self._rng.randbytes(2) + bytes((kind,))

    def _expect(self, datagram: bytes) -> None:
        if len(self._pending) >= MAX_QUEUE:
            self._pending.clear()  # whoever never answers is not waited for
        self._pending.add(int.from_bytes(datagram[1:3]))

    def _keep_alive(self, at_s: float) -> None:
        datagram = self._header(PULL_DATA) + self._eui
        self._expect(datagram)
        self.counters.pulled += 1
        self.pull(datagram)
        self._later("pull", at_s + KEEP_ALIVE_S, self._keep_alive)

    def _status(self, at_s: float) -> None:
        count = self.counters
        share = 100.0 * count.pushes_acked / count.pushed if count.pushed else 0.0
        self._push_json(
            {
                "stat": {
                    "time": self._time().strftime("%Y-%m-%d %H:%M:%S GMT"),
                    "rxnb": count.received + count.received_bad,
                    "rxok": count.received,
                    "rxfw": count.received + count.received_bad,
                    "ackr": round(share, 1),
                    "dwnb": count.responses,
                    "txnb": count.transmitted,
                }
            }
        )
        self._later("status", at_s + STATUS_S, self._status)

    def _later(self, what: str, at_s: float, do: Callable[[float], None]) -> None:
        self._timers[what] = self._schedule.call_at(at_s, lambda: do(at_s))

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._utc_ms() / 1000, tz=UTC)

    # --- down -----------------------------------------------------------------------------------------

    def receive(self, datagram: bytes) -> None:
        """Take a datagram of the server, on either socket."""
        if len(datagram) < _HEADER or datagram[0] != VERSION:
            self.counters.unreadable += 1
            return
        token, kind = int.from_bytes(datagram[1:3]), datagram[3]
        if kind == PULL_RESP:
            self._respond(datagram[1:3], datagram[_HEADER:])
        elif kind in {PUSH_ACK, PULL_ACK} and token in self._pending:
            self._pending.discard(token)
            self.counters.pushes_acked += kind == PUSH_ACK
            self.counters.pulls_acked += kind == PULL_ACK
        elif kind not in {PUSH_ACK, PULL_ACK}:
            self.counters.unreadable += 1

    def _respond(self, token: bytes, content: bytes) -> None:
        self.counters.responses += 1
        try:
            wanted = msgspec.json.decode(content, type=PullResp).txpk
            frame = _unbase64(wanted.data)
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            self.counters.unreadable += 1
            return
        data_rate = rate_of(wanted.datr)
        if wanted.modu != "LORA" or data_rate is None or len(frame) != wanted.size or wanted.codr != "4/5":
            self.counters.unreadable += 1
            return
        self._answer(token, self._plan(wanted, frame, data_rate), wanted.powe)

    def _answer(self, token: bytes, error: TxError, power_dbm: int) -> None:
        said: dict[str, object] = {"error": error.value}
        if error is TxError.NONE and power_dbm > MAX_POWER_DBM:
            said = {"warn": "TX_POWER", "value": MAX_POWER_DBM}
        answers = self.counters.answers
        answers[error.value] = answers.get(error.value, 0) + 1
        head = bytes((VERSION,)) + token + bytes((TX_ACK,)) + self._eui
        self.pull(head + msgspec.json.encode({"txpk_ack": said}))

    def _plan(self, wanted: Txpk, frame: bytes, data_rate: int) -> TxError:
        """Put a downlink into the queue, or say why not."""
        now_s = self._schedule.time()
        frequency_hz = round(wanted.freq * 1e6)
        if wanted.imme:
            start_s = now_s + MIN_LEAD_S
        elif wanted.tmst is not None:
            start_s = self._moment(wanted.tmst, now_s)
        else:
            return TxError.GPS_UNLOCKED  # tmms needs a receiver that this gateway does not have
        if self.refuse_all or start_s < now_s + MIN_LEAD_S:
            return TxError.TOO_LATE
        if start_s > now_s + MAX_LEAD_S:
            return TxError.TOO_EARLY
        if not BAND_HZ[0] <= frequency_hz < BAND_HZ[1]:
            return TxError.TX_FREQ
        end_s = start_s + airtime_s(len(frame), data_rate, crc=not wanted.ncrc)
        sent = Sent(frame, frequency_hz, data_rate, wanted.ipol, start_s, end_s)
        if len(self._queue) >= MAX_QUEUE or any(_collide(sent, other) for other in self._queue):
            return TxError.COLLISION_PACKET
        self._queue.append(sent)
        self._schedule.call_at(start_s, lambda: self._begin(sent))
        self._schedule.call_at(end_s, lambda: self._queue.remove(sent))
        return TxError.NONE

    def _moment(self, counter_us: int, now_s: float) -> float:
        """Return when the counter has that value: in the half of its range before or after now."""
        ahead = (counter_us - self.counter_at(now_s)) % _WRAP
        if ahead >= _WRAP // 2:
            ahead -= _WRAP
        return now_s + ahead / 1e6

    def _begin(self, sent: Sent) -> None:
        self.counters.transmitted += 1
        self.counters.airtime_s += sent.end_s - sent.start_s
        self._transmit(sent)


def _collide(one: Sent, other: Sent) -> bool:
    return one.start_s < other.end_s + GUARD_S and other.start_s < one.end_s + GUARD_S


def _unbase64(text: str) -> bytes:
    """Read base64 with or without its padding, as forwarders do."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
