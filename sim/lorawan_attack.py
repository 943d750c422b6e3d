"""An attacker within radio range: forgeries and replays as raw PHYPayloads, from a seed and nothing else.

The attacker has overheard genuine frames and owns a device of its own, with its own keys; it has no key of its
victim. So whatever is made here must never be believed, and a server that counts one of these as an uplink is
broken. Pure: no event loop, no socket; `sim.radio` sends some of these when told to.
"""

import itertools
import random
import struct
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from sim.lorawan_crypto import DataUp, Session, write_data, write_join_request

MAX_FRAME = 255
"""Bytes of the longest LoRa packet."""


class Attack(StrEnum):
    """What an attacker tries."""

    REPLAY = "replay"
    """A genuine frame, byte for byte, after its counter has been used."""
    BIT_FLIP = "bit_flip"
    """A genuine frame with one to three bits turned, anywhere."""
    TRUNCATED = "truncated"
    """The beginning of a genuine frame."""
    EXTENDED = "extended"
    """A genuine frame with bytes behind it."""
    OTHER_ADDRESS = "other_address"
    """A genuine frame under another DevAddr."""
    NEXT_COUNTER = "next_counter"
    """A genuine frame with its counter raised and its MIC left."""
    OLD_COUNTER = "old_counter"
    """An old counter, signed with the attacker's own key."""
    OTHER_KEY = "other_key"
    """The next counter, signed with the attacker's own key."""
    PORT_ZERO = "port_zero"
    """MAC commands on port 0, signed with the attacker's own key."""
    RESERVED_PORT = "reserved_port"
    """Ports 224 to 255, signed with the attacker's own key."""
    WRONG_TYPE = "wrong_type"
    """A genuine frame said to be a downlink, a proprietary frame, or of another LoRaWAN version."""
    LONG_OPTIONS = "long_options"
    """A genuine frame whose FOptsLen reaches beyond its end."""
    NOISE = "noise"
    """Random bytes of any length."""
    JOIN_FORGED = "join_forged"
    """A join request for the victim, signed with the attacker's own key."""
    JOIN_REPLAY = "join_replay"
    """A genuine join request, a second time."""


class Victim(msgspec.Struct, frozen=True):
    """What an attacker can know of a sensor by listening.

    Attributes:
        dev_addr: of its session.
        frames: genuine uplinks that the server has had, oldest first; at least one.
        next_counter: of the uplink that it has not sent yet.
        dev_eui: of it.
        join_eui: of it.
        joins: genuine join requests that the server has had.
    """

    dev_addr: int
    frames: tuple[bytes, ...]
    next_counter: int
    dev_eui: int = 0
    join_eui: int = 0
    joins: tuple[bytes, ...] = ()


class Forgery(msgspec.Struct, frozen=True):
    """One frame that nobody must believe."""

    attack: Attack
    frame: bytes


class _Attacker:
    """Knows one victim and owns one key."""

    def __init__(self, victim: Victim, rng: random.Random) -> None:
        self.victim = victim
        self.rng = rng
        self.own = Session(victim.dev_addr, rng.randbytes(16), rng.randbytes(16))

    def genuine(self) -> bytes:
        return self.rng.choice(self.victim.frames)

    def signed(self, counter: int, port: int) -> bytes:
        payload = self.rng.randbytes(self.rng.randrange(1, 20))
        return write_data(self.own, DataUp(counter, port, payload, confirmed=self.rng.random() < 0.5))


def forgeries(victim: Victim, count: int, seed: int, kinds: tuple[Attack, ...] = ()) -> list[Forgery]:
    """Return what an attacker would send.

    Args:
        victim: whom it is about.
        count: how many.
        seed: the same gives the same.
        kinds: only these attacks, in turn; none given means all that this victim allows.
    """
    rng = random.Random(seed)
    attacker = _Attacker(victim, rng)
    chosen = kinds or tuple(attack for attack in Attack if victim.joins or attack is not Attack.JOIN_REPLAY)
    attacks = itertools.islice(itertools.cycle(chosen), count)
    return [Forgery(attack, _MAKE[attack](attacker)) for attack in attacks]


def _bit_flip(attacker: _Attacker) -> bytes:
    frame = bytearray(attacker.genuine())
    for position in attacker.rng.sample(range(8 * len(frame)), attacker.rng.randint(1, 3)):
        frame[position // 8] ^= 1 << position % 8
    return bytes(frame)


def _truncated(attacker: _Attacker) -> bytes:
    frame = attacker.genuine()
    return frame[: attacker.rng.randrange(len(frame))]


def _extended(attacker: _Attacker) -> bytes:
    frame = attacker.genuine()
    return frame + attacker.rng.randbytes(attacker.rng.randint(1, MAX_FRAME - len(frame)))


def _other_address(attacker: _Attacker) -> bytes:
    frame = attacker.genuine()
    address = attacker.victim.dev_addr ^ attacker.rng.randrange(1, 1 << 32)
    return frame[:1] + struct.pack("<I", address) + frame[5:]


def _next_counter(attacker: _Attacker) -> bytes:
    frame = attacker.genuine()
    counter = attacker.victim.next_counter + attacker.rng.randrange(100)
    return frame[:6] + struct.pack("<H", counter & 0xFFFF) + frame[8:]


def _old_counter(attacker: _Attacker) -> bytes:
    return attacker.signed(attacker.rng.randrange(max(1, attacker.victim.next_counter)), 2)


def _other_key(attacker: _Attacker) -> bytes:
    return attacker.signed(attacker.victim.next_counter, attacker.rng.randint(1, 223))


def _port_zero(attacker: _Attacker) -> bytes:
    return attacker.signed(attacker.victim.next_counter, 0)


def _reserved_port(attacker: _Attacker) -> bytes:
    return attacker.signed(attacker.victim.next_counter, attacker.rng.randint(224, 255))


def _wrong_type(attacker: _Attacker) -> bytes:
    kind = attacker.rng.choice((0x20, 0x60, 0xA0, 0xC0, 0xE0, 0x41, 0x43, 0x5C))
    return bytes((kind,)) + attacker.genuine()[1:]


def _long_options(attacker: _Attacker) -> bytes:
    frame = bytearray(attacker.genuine()[:14])
    frame[5] |= 0x0F
    return bytes(frame)


def _noise(attacker: _Attacker) -> bytes:
    return attacker.rng.randbytes(attacker.rng.randrange(MAX_FRAME + 1))


def _join_forged(attacker: _Attacker) -> bytes:
    victim, nonce = attacker.victim, attacker.rng.randrange(1 << 16)
    return write_join_request(attacker.own.network_key, victim.join_eui, victim.dev_eui, nonce)


def _join_replay(attacker: _Attacker) -> bytes:
    return attacker.rng.choice(attacker.victim.joins)


_MAKE: Mapping[Attack, Callable[[_Attacker], bytes]] = {
    Attack.REPLAY: _Attacker.genuine,
    Attack.BIT_FLIP: _bit_flip,
    Attack.TRUNCATED: _truncated,
    Attack.EXTENDED: _extended,
    Attack.OTHER_ADDRESS: _other_address,
    Attack.NEXT_COUNTER: _next_counter,
    Attack.OLD_COUNTER: _old_counter,
    Attack.OTHER_KEY: _other_key,
    Attack.PORT_ZERO: _port_zero,
    Attack.RESERVED_PORT: _reserved_port,
    Attack.WRONG_TYPE: _wrong_type,
    Attack.LONG_OPTIONS: _long_options,
    Attack.NOISE: _noise,
    Attack.JOIN_FORGED: _join_forged,
    Attack.JOIN_REPLAY: _join_replay,
}


def victim_of(session: Session, count: int, seed: int) -> tuple[Victim, list[bytes]]:
    """Return a victim that has sent `count` uplinks, and these, for whoever needs one without a radio."""
    rng = random.Random(f"victim/{seed}")
    frames = [
        write_data(session, DataUp(counter, rng.randint(1, 223), rng.randbytes(rng.randrange(1, 40))))
        for counter in range(count)
    ]
    return Victim(session.dev_addr, tuple(frames), next_counter=count), frames
