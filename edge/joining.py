"""The command line's way of letting a radio device in."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console

from drivers.base import Admission
from edge.answers import Join, JoinAnswer
from edge.asking import read_eui, read_key
from protocols.model.ids import DeviceId

LOOK_S = 1.0
MAX_KEY_FILE_BYTES = 4096


def typed_key(file: Path | None) -> bytes:
    """Return the key from a file, from standard input for "-", or from the technician's keyboard.

    Raises:
        ValueError: if it is none, or the file cannot be read.
    """
    if file is None:
        return read_key(typer.prompt("Key (32 hexadecimal digits, not shown)", hide_input=True, err=True))
    if str(file) == "-":
        return read_key(sys.stdin.read(MAX_KEY_FILE_BYTES))
    try:
        return read_key(file.read_bytes()[:MAX_KEY_FILE_BYTES].decode("ascii", "replace"))
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error


def request(device: str, key: bytes | None, join_eui: str | None) -> Join:
    """Return what the agent is asked. Raises ValueError."""
    return Join(DeviceId(device), key, None if join_eui is None else read_eui(join_eui))


def wait_until_heard(ask: Callable[[Join], JoinAnswer], first: Join, patience_s: float) -> JoinAnswer:
    """Ask, and go on asking where the device is until it is heard or the patience is over."""
    answer = ask(first)
    until = time.monotonic() + patience_s  # noqa: TID251  a person waits here, no device
    look = Join(first.device)
    with Console(stderr=True).status(answer.text) as status:
        while answer.admission is not Admission.HEARD and time.monotonic() < until:  # noqa: TID251
            time.sleep(LOOK_S)
            answer = ask(look)
            status.update(answer.text)
    return answer
