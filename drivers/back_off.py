"""Which devices are asked less often because they do not answer. Pure: the time is handed in."""

from collections.abc import Iterator

from protocols.model.ids import DeviceId


class _Silence:
    """One device's silence."""

    __slots__ = ("count", "next_probe_ms", "pause_ms")

    def __init__(self, pause_ms: int) -> None:
        self.count = 0
        self.next_probe_ms = 0
        self.pause_ms = pause_ms


class BackOff:
    """Keeps count of silent devices, each by itself.

    Args:
        silent_after: silences in a row after which a device is backed off.
        probe_s: seconds to its first probe; doubled at each further silence.
        probe_bound_s: the longest time between two probes.
    """

    def __init__(self, silent_after: int, probe_s: float, probe_bound_s: float) -> None:
        self._silent_after = silent_after
        self._probe_ms = round(probe_s * 1000)
        self._bound_ms = round(probe_bound_s * 1000)
        self._silences: dict[DeviceId, _Silence] = {}

    def backed_off(self, device: DeviceId) -> bool:
        """Tell whether a device is asked less often."""
        silence = self._silences.get(device)
        return silence is not None and silence.count >= self._silent_after

    def claim_probe(self, device: DeviceId, now_ms: int) -> bool:
        """Tell whether a backed-off device's next probe is due, and take it: the next asker waits."""
        silence = self._silences[device]
        if now_ms < silence.next_probe_ms:
            return False
        silence.next_probe_ms = now_ms + silence.pause_ms
        return True

    def silent(self, device: DeviceId, now_ms: int) -> bool:
        """Note a silence; tell whether the device is backed off from now on."""
        silence = self._silences.setdefault(device, _Silence(self._probe_ms))
        silence.count += 1
        if silence.count > self._silent_after:
            silence.pause_ms = min(silence.pause_ms * 2, self._bound_ms)
        silence.next_probe_ms = now_ms + silence.pause_ms
        return silence.count == self._silent_after

    def answered(self, device: DeviceId) -> bool:
        """Note an answer; tell whether the device had been backed off."""
        was = self.backed_off(device)
        self._silences.pop(device, None)
        return was

    def forget(self) -> None:
        """Give every device a new chance: the line was away, so their silence means nothing."""
        self._silences.clear()

    def __iter__(self) -> Iterator[DeviceId]:
        return (device for device in self._silences if self.backed_off(device))
