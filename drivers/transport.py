"""A serial port as an asyncio transport, on pyserial: opened in a thread, exclusive, then never blocking."""

import asyncio
import errno
import os
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import serial

from drivers.errors import LineDownError

MAX_UNWRITTEN: Final = 4096
"""Bytes that may wait for a port that takes none; our frames have tens."""
_READ_SIZE: Final = 4096
_WHY: Final = {
    errno.ENOENT: "is missing",
    errno.EACCES: "may not be opened by this user (group dialout?)",
    errno.EAGAIN: "is in use by another program",
    errno.EBUSY: "is in use by another program",
}


async def connect_serial(
    port: str,
    protocol: asyncio.Protocol,
    *,
    baudrate: int,
    parity: Literal["N", "E", "O"] = "N",
    stopbits: Literal[1, 2] = 1,
) -> "SerialTransport":
    """Open a serial port and connect a protocol to it.

    Raises:
        LineDownError: with the reason, for a person.
    """

    def opening() -> serial.Serial:
        kept = "N" if _keeps_no_parity(port) else parity
        return serial.Serial(port, baudrate, parity=kept, stopbits=stopbits, timeout=0, exclusive=True)

    try:
        opened = await _in_thread(opening)
    except (OSError, ValueError, termios.error) as fault:
        raise LineDownError(f"port {port} {_why(fault)}") from fault
    return SerialTransport(opened, protocol)


def _keeps_no_parity(port: str) -> bool:
    """Tell whether a port is a pseudo-terminal: in front of a remote serial server, whose parity it is.

    Linux drops a pseudo-terminal's parity, and glibc then calls the setting invalid, but not every time.
    """
    return Path(port).resolve().is_relative_to("/dev/pts")


async def _in_thread(opening: Callable[[], serial.Serial]) -> serial.Serial:
    """Run a blocking open in a thread; if nobody waits for it any more, close what it has opened."""
    task = asyncio.ensure_future(asyncio.to_thread(opening))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(task: "asyncio.Future[serial.Serial]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _why(fault: Exception) -> str:
    number = fault.errno if isinstance(fault, OSError) else None
    return _WHY.get(number or 0, f"cannot be opened: {fault}")


class SerialTransport(asyncio.Transport):
    """An open serial port; calls its protocol as a socket's transport does."""

    def __init__(self, port: serial.Serial, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._fd = port.fileno()
        self._protocol = protocol
        self._unwritten = bytearray()
        self._closing = False
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self._read_ready)
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes as fast as the port takes them; a port that takes none is lost."""
        if self._closing:
            return
        waiting = bool(self._unwritten)
        self._unwritten += data
        if len(self._unwritten) > MAX_UNWRITTEN:
            self._lose(OSError(errno.EIO, "the port takes no bytes"))
        elif not waiting:
            self._write_ready()

    def close(self) -> None:
        """Close the port; the protocol hears of it soon."""
        self._lose(None)

    def abort(self) -> None:
        """Close the port."""
        self._lose(None)

    def is_closing(self) -> bool:
        """Tell whether the port is closed or about to be."""
        return self._closing

    def _read_ready(self) -> None:
        try:
            received = os.read(self._fd, _READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as fault:
            self._lose(fault)
            return
        if received:
            self._protocol.data_received(received)
        else:
            self._lose(OSError(errno.EIO, "the port hung up"))

    def _write_ready(self) -> None:
        try:
            written = os.write(self._fd, self._unwritten)
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError as fault:
            self._lose(fault)
            return
        del self._unwritten[:written]
        if self._unwritten:
            self._loop.add_writer(self._fd, self._write_ready)
        else:
            self._loop.remove_writer(self._fd)

    def _lose(self, fault: OSError | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._port.close()
        self._loop.call_soon(self._protocol.connection_lost, fault)
