"""A serial port that is a pty: bytes take the time that they take on the wire, and the plug can be pulled.

Whoever plays the far end hands in `received` and calls `send`. Bytes from the host arrive when their last
bit would have; bytes to the host leave likewise. The host opens the symlink `link`, as it would open a device
name that udev keeps stable.
"""

import asyncio
import contextlib
import os
import random
import tty
from collections.abc import Callable
from pathlib import Path

import structlog

from sim.faults import Board, FaultSettings, SerialFault
from sim.schedule import Schedule, Timer

_log = structlog.get_logger(__name__)

_READ_SIZE = 4096  # what the kernel holds of a pty at most
_PTY_FOLDER = "/dev/pts/"
_NOISE_EVERY_S = 0.5
_NOISE_PROBABILITY = 0.02
_NOISE_BYTES = 8


class SerialPort:
    """One end of a pty with a name, a speed, and faults.

    Args:
        link: path of the symlink that the host opens; its folder is made if missing.
        baud: bit/s.
        bits_per_byte: 10 for 8N1, 11 for 8E1 or 8N2.
        schedule: gives time and timers.
        rng: seeded source of the faults' randomness.

    Attributes:
        received: called with bytes and the moment (s) at which the last of them has arrived.
        lost_bytes: bytes for which the host had no room.
    """

    def __init__(
        self, link: Path, *, baud: int, bits_per_byte: int, schedule: Schedule, rng: random.Random
    ) -> None:
        self.link = link
        self.char_s = bits_per_byte / baud
        self.board = Board(SerialFault)
        self.received: Callable[[bytes, float], None] = lambda _received, _at_s: None
        self.lost_bytes = 0
        self._schedule = schedule
        self._rng = rng
        self._ends: tuple[int, int] | None = None
        self._receive_free_s = 0.0
        self._send_free_s = 0.0
        self._plugged_in = 0
        self._noise: Timer | None = None

    @property
    def device(self) -> str | None:
        """The pty's own name, or None while unplugged."""
        return os.ttyname(self._ends[1]) if self._ends else None

    def open(self) -> None:
        """Make the pty and its symlink, and listen.

        Raises:
            FileExistsError: something else than a symlink to a pty stands at `link`.
        """
        master, slave = os.openpty()
        self._ends = (master, slave)
        self._plugged_in += 1
        tty.setraw(slave)
        os.set_blocking(master, False)
        try:
            self._place_link(os.ttyname(slave))
        except OSError:
            self._hang_up()
            raise
        self._listen()

    def close(self) -> None:
        """Hang up and take the symlink away."""
        self._stop_noise()
        if self._ends is not None:
            self._remove_link()
            self._hang_up()

    def send(self, content: bytes, at_s: float, done: Callable[[], object] | None = None) -> None:
        """Send bytes to the host from `at_s` on; call `done` when the last has left and the host has them."""
        start_s = max(at_s, self._send_free_s)
        self._send_free_s = start_s + len(content) * self.char_s
        plug = self._plugged_in
        self._schedule.call_at(self._send_free_s, lambda: self._write_if(plug, content, done))

    def inject(self, content: bytes) -> None:
        """Put bytes on the host's side at once, outside of any frame."""
        self._write(content)

    def set_fault(self, fault: SerialFault, settings: FaultSettings) -> None:
        """Let a fault begin."""
        self.board.set(fault, settings)
        if fault is SerialFault.NOISE:
            self._stop_noise()
            self._make_noise()
        elif fault is SerialFault.FROZEN:
            self._stop_listening()
        elif fault is SerialFault.UNPLUGGED and self._ends is not None:
            self._remove_link()
            self._hang_up()

    def clear_fault(self, fault: SerialFault) -> None:
        """Let a fault end."""
        if fault not in self.board:
            return
        self.board.clear(fault)
        if fault is SerialFault.NOISE:
            self._stop_noise()
        elif fault is SerialFault.FROZEN and self._ends is not None:
            self._forget_unread()
            self._listen()
        elif fault is SerialFault.UNPLUGGED and self._ends is None:
            self.open()

    def _listen(self) -> None:
        if self._ends is not None and SerialFault.FROZEN not in self.board:
            asyncio.get_running_loop().add_reader(self._ends[0], self._readable)

    def _stop_listening(self) -> None:
        if self._ends is not None:
            asyncio.get_running_loop().remove_reader(self._ends[0])

    def _forget_unread(self) -> None:
        """What the host wrote while nobody listened was never heard."""
        with contextlib.suppress(BlockingIOError):
            while self._ends is not None:
                os.read(self._ends[0], _READ_SIZE)

    def _readable(self) -> None:
        if self._ends is None:
            return
        try:
            content = os.read(self._ends[0], _READ_SIZE)
        except BlockingIOError:
            return
        start_s = max(self._schedule.time(), self._receive_free_s)
        end_s = self._receive_free_s = start_s + len(content) * self.char_s
        heard = self._damaged(content)
        plug = self._plugged_in
        self._schedule.call_at(end_s, lambda: self._deliver_if(plug, heard, end_s))

    def _deliver_if(self, plug: int, content: bytes, at_s: float) -> None:
        if plug == self._plugged_in and content:
            self.received(content, at_s)

    def _write_if(self, plug: int, content: bytes, done: Callable[[], object] | None) -> None:
        """Write unless the plug was pulled in between: then the bytes are gone."""
        if plug != self._plugged_in or SerialFault.FROZEN in self.board:
            return
        if self._write(self._damaged(content)) and done is not None:
            done()

    def _write(self, content: bytes) -> bool:
        """Write what the host has room for; the rest is lost, as in a UART nobody empties."""
        if self._ends is None:
            return False
        written = 0
        with contextlib.suppress(BlockingIOError):
            written = os.write(self._ends[0], content)
        self.lost_bytes += len(content) - written
        return written == len(content)

    def _damaged(self, content: bytes) -> bytes:
        drop, flip = self._odds(SerialFault.DROP), self._odds(SerialFault.FLIP)
        if not drop and not flip:
            return content
        kept = (byte for byte in content if self._rng.random() >= drop)
        return bytes(byte ^ self._one_bit() if self._rng.random() < flip else byte for byte in kept)

    def _odds(self, fault: SerialFault) -> float:
        if fault not in self.board:
            return 0.0
        probability = self.board.settings(fault).probability
        return _NOISE_PROBABILITY if probability is None else probability

    def _one_bit(self) -> int:
        return 1 << self._rng.randrange(8)

    def _make_noise(self) -> None:
        self._write(self._rng.randbytes(self._rng.randint(1, _NOISE_BYTES)))
        every_s = self.board.settings(SerialFault.NOISE).every_s or _NOISE_EVERY_S
        self._noise = self._schedule.call_at(self._schedule.time() + every_s, self._make_noise)

    def _stop_noise(self) -> None:
        if self._noise is not None:
            self._noise.cancel()
            self._noise = None

    def _place_link(self, device: str) -> None:
        self.link.parent.mkdir(parents=True, exist_ok=True)
        ours = self.link.is_symlink() and str(self.link.readlink()).startswith(_PTY_FOLDER)
        if not ours and (self.link.exists() or self.link.is_symlink()):
            raise FileExistsError(f"{self.link} exists and is not a symlink to a pty")
        fresh = self.link.with_name(f".{self.link.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(device)
        fresh.replace(self.link)
        _log.debug("port plugged in", link=str(self.link), device=device)

    def _remove_link(self) -> None:
        """Take the symlink away, unless another bench has put its own there meanwhile."""
        if self.link.is_symlink() and str(self.link.readlink()) == self.device:
            self.link.unlink()

    def _hang_up(self) -> None:
        if self._ends is None:
            return
        self._stop_listening()
        self._plugged_in += 1
        for end in self._ends:
            os.close(end)
        self._ends = None
