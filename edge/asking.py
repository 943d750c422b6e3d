"""The command line's side of the local socket."""

import base64
import binascii
import getpass
import math
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRWPair
from pathlib import Path
from typing import TypeVar

import msgspec

from drivers.settings import LoraUdp
from edge.answers import PolicyApply, Reply, Set, Watch
from edge.clock import SystemClock
from edge.config import Settings
from edge.lighting import LEVEL
from protocols.model.command import Command
from protocols.model.ids import ID_RULE, CommandId, DeviceId, PointName, is_id
from protocols.model.reading import Sample, Value

T = TypeVar("T")

MAX_NUMBER = 1e15
"""As a command's value is bounded."""
ANSWER_TIMEOUT_S = 120.0
"""A ramp of 90 s ends within it."""
EXPIRES_S = 10.0
"""How long the technician's command may wait to be begun, unless told: whoever types it looks at the device."""
LONGEST_S = 366 * 86_400
"""As the centre bounds an override; what is longer is a slip of the finger."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WORDS: dict[str, Value] = {"on": True, "true": True, "off": False, "false": False, "auto": None}


class NoAgentError(Exception):
    """Nobody answers at the socket."""


class RefusedError(Exception):
    """The agent says no, and why: the question is wrong, and nothing was done."""


class NotDoneError(RefusedError):
    """The question is sound, and what it asks for was not done, or not all of it; the text says why."""


def ask(path: Path, request: object, wanted: type[T]) -> T:
    """Ask the agent one thing.

    Raises:
        NoAgentError: if none runs.
        RefusedError: if it says no to the question.
        NotDoneError: if it says that it was not done.
    """
    with _connection(path) as stream:
        stream.write(msgspec.json.encode(request) + b"\n")
        stream.flush()
        return _read(stream, wanted)


def watch(path: Path, request: Watch) -> Iterator[Sample]:
    """Yield samples as they come; raises what `ask` raises."""
    with _connection(path, timeout_s=None) as stream:
        stream.write(msgspec.json.encode(request) + b"\n")
        stream.flush()
        while True:
            yield _read(stream, Sample)


def stream(path: Path, request: object, wanted: type[T], silence_s: float) -> Iterator[T]:
    """Yield answers as they come until all are told; raises what `ask` raises, also after `silence_s` of none."""
    with _connection(path, timeout_s=silence_s) as connected:
        connected.write(msgspec.json.encode(request) + b"\n")
        connected.flush()
        while (reply := _reply(connected)).more:
            yield msgspec.json.decode(reply.answer, type=wanted)


def read_key(text: str) -> bytes:
    """Return the key that 32 hexadecimal digits mean; spaces, colons and dashes between them are let pass.

    Raises:
        ValueError: if it is none. The text itself is not told: it may be a key with one digit missing.
    """
    digits = re.sub(r"[\s:-]", "", text)
    if not re.fullmatch(r"[0-9a-fA-F]{32}", digits):
        raise ValueError("a key is 32 hexadecimal digits, as printed on the device or its box")
    return bytes.fromhex(digits)


def read_eui(text: str) -> int:
    """Return the number that 16 hexadecimal digits mean. Raises ValueError if it is none."""
    digits = re.sub(r"[\s:-]", "", text)
    if not re.fullmatch(r"[0-9a-fA-F]{16}", digits):
        raise ValueError(f"{text!r} is no EUI; expected 16 hexadecimal digits")
    return int(digits, 16)


def duration_s(text: str) -> float:
    """Return the seconds that "90s", "20m", "2h" or "1d" mean.

    Raises:
        ValueError: if it means none, or more than a year.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time; expected a number with s, m, h or d, such as 20m")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > LONGEST_S:
        raise ValueError(f"{text!r} is too long; at most {LONGEST_S // 86_400}d")
    return seconds


def technician_command(
    settings: Settings, device: str, point: str, value: str, times: tuple[str, str | None, float]
) -> Set:
    """Write down what the technician wants, by this machine's clock.

    Args:
        settings: the cabinet's.
        device: whose.
        point: which.
        value: as typed.
        times: how long a lamp keeps it, when it is too late to begin (None for what suits the device), and the ramp
            in seconds.

    Raises:
        ValueError: with what is wrong, for a person.
    """
    for name in (device, point):
        if not is_id(name):
            raise ValueError(f"{name!r} is no name; expected {ID_RULE}")
    keep, expires, ramp_s = times
    bench = settings.document.bench_clock
    now = SystemClock().now()
    civil_ms = now.utc_ms if bench is None else bench.civil_ms(now.monotonic_ms)
    typed = _value(value)
    lasts = typed is not None and point == LEVEL
    until_ms = civil_ms + round(duration_s(keep) * 1000)
    command = Command(
        id=CommandId(f"cli-{uuid.uuid4().hex[:20]}"),
        device=DeviceId(device),
        point=PointName(point),
        value=typed,
        issuer=technician(),
        expires_ms=now.utc_ms + round(_patience_s(settings, device, expires) * 1000),
        until_ms=until_ms if lasts else None,
        ramp_s=ramp_s,
    )
    return Set(command, now.utc_ms, civil_ms)


def _patience_s(settings: Settings, device: str, expires: str | None) -> float:
    """Return for how long a command may be begun: at once, or when a LoRaWAN device speaks next."""
    if expires is not None:
        return duration_s(expires)
    document = settings.document
    on = {one.line for one in document.device if one.id == device}
    waits = [one.write_timeout_s for one in document.line if one.id in on and isinstance(one, LoraUdp)]
    return max([EXPIRES_S, *waits])


def technician() -> str:
    """Return who asks, as an audit names them."""
    return f"technician:{getpass.getuser()}"[:100]


def read_signed(file: Path) -> PolicyApply:
    """Read a signed policy from a file.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        raw = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
        return PolicyApply(raw["body"], raw["key"], base64.b64decode(raw["signature"], validate=True))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, KeyError, binascii.Error) as error:
        raise ValueError(f"is no signed policy with body, key and signature: {error}") from error


def _value(text: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number) or abs(number) > MAX_NUMBER:
        raise ValueError(f"{text!r} is no number that a device could have")
    return int(number) if number.is_integer() else number


@contextmanager
def _connection(path: Path, timeout_s: float | None = ANSWER_TIMEOUT_S) -> Iterator[BufferedRWPair]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoAgentError(str(path)) from error
        except PermissionError as error:
            raise NotDoneError(f"{path} belongs to somebody else; try as its owner, with sudo") from error
        except OSError as error:
            raise NotDoneError(f"{path}: {error}") from error
        with connection.makefile("rwb") as stream:
            yield stream


def _read(stream: BufferedRWPair, wanted: type[T]) -> T:
    return msgspec.json.decode(_reply(stream).answer, type=wanted)


def _reply(stream: BufferedRWPair) -> Reply:
    try:
        line = stream.readline()
    except TimeoutError as error:
        raise NotDoneError("the agent does not answer; look at its log") from error
    except ConnectionError as error:
        raise NoAgentError("the agent has gone") from error
    if not line.endswith(b"\n"):
        raise NoAgentError("the agent has gone")
    reply = msgspec.json.decode(line, type=Reply)
    if reply.error:
        raise (NotDoneError if reply.understood else RefusedError)(reply.error)
    return reply
