"""How the command line shows answers: tables for people, one JSON object for scripts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drivers.base import Admission, Found, LineHealth
from edge.answers import (
    BufferAnswer,
    DeviceAnswer,
    JoinAnswer,
    LatestValue,
    PolicyAnswer,
    PriorityFigures,
    StatusAnswer,
)
from edge.config import Settings, SettingsError
from edge.lighting import DECIDED_POINTS
from edge.offline import OfflineAnswer
from edge.outbox.rows import Salvaged
from edge.outbox.store import OutboxFigures
from edge.positions import LocalFigures
from edge.searching import Searched
from edge.state import CommandRecord
from protocols.backhaul.messages import PolicyInForce
from protocols.clock import ClockQuality
from protocols.model.alarm import SEVERITY, Alarm
from protocols.model.reading import Quality, Reason, Sample, Value

if TYPE_CHECKING:
    from drivers.opcua_certificates import Made  # only where a line needs it

WIDE = 1000
"""Columns of what is no terminal: in a file or a pipe a row is one line, for whoever searches it."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)


def plain(text: str) -> str:
    """Return a text as it is to be read: what a peer says colours nothing, breaks nothing, and moves no cursor."""
    return escape("".join(one if one.isprintable() else "?" for one in text))


SHOWN_VALUES = 6
"""Of each device in a list of many; `read` shows all of one."""
_DECIDED = {point.name for point in DECIDED_POINTS}


def as_json_line(answer: object) -> None:
    """Print an answer as one line of JSON."""
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()


def settings(checked: Settings, *, as_json: bool) -> None:
    """Show that a settings file is sound, and what it says."""
    document = checked.document
    counts = {"cabinet": checked.cabinet, "lines": len(document.line), "devices": len(document.device)}
    if as_json:
        as_json_line({"ok": True, "faults": [], **counts})
        return
    out.print(f"{checked.file}: sound")
    table = table_of("line", "driver", "where", "devices")
    for line in document.line:
        count = sum(1 for device in document.device if device.line == line.id)
        table.add_row(line.id, str(line.__struct_config__.tag), line.where, str(count))
    out.print(table)


def faults(error: SettingsError) -> None:
    """Show every fault as JSON."""
    found = [{"file": str(f.file), "key": f.fault.key, "expected": f.fault.expected} for f in error.faults]
    as_json_line({"ok": False, "faults": found})


def status(answer: StatusAnswer, *, as_json: bool) -> None:
    """Show how the cabinet is."""
    if as_json:
        as_json_line(answer)
        return
    up_s = (answer.now.utc_ms - answer.started_ms) / 1000
    out.print(
        f"[bold]{answer.cabinet}[/]  agent {answer.agent_version}, pid {answer.pid}, up {_span(up_s)}, "
        f"last run ended: {answer.last_end}"
    )
    out.print(f"clock     {when(answer.now.utc_ms)} ({answer.now.quality.name.lower()})")
    _clock(answer)
    if abs(answer.civil.utc_ms - answer.now.utc_ms) > 1000:
        out.print(f"          bench clock, deciding sees {when(answer.civil.utc_ms)}")
    backhaul = answer.backhaul
    state = "[green]connected[/]" if backhaul.connected else f"[red]gone[/]: {plain(backhaul.reason)}"
    if backhaul.connected and not backhaul.welcomed:
        state = "[yellow]connected[/], and the centre has not answered yet,"
    under_way = _count(backhaul.in_flight, "batch", "batches")
    out.print(f"backhaul  {state} since {when(backhaul.since_ms)}; {under_way} on the way")
    _outbox(answer.outbox)
    _policies(answer.policies, answer.rejected)
    out.print(
        f"lamps     {answer.lamps_settled} of {answer.lamps} at their level, {answer.overrides} overridden"
    )
    _priority(answer.priority)
    local_positions(answer.local)
    _lines(answer.lines)
    _alarms(answer.alarms)


def _clock(answer: StatusAnswer) -> None:
    if answer.now.quality is ClockQuality.UNSYNCHRONISED:
        out.print("          [red]was never set[/]: this is the last known good time, which goes on")
    elif answer.known_ms > answer.now.utc_ms:
        out.print(
            f"          [red]behind[/] what was known to be good: expiries go by {when(answer.known_ms)}"
        )
    moved = answer.clock_moved
    if answer.clock_steps and moved is not None and moved.before_ms is not None:
        by_s = (moved.offset_ms - moved.before_ms) / 1000
        out.print(
            f"          moved {answer.clock_steps} times, last by {by_s:+.1f} s at {when(moved.utc_ms)},"
            f" from {moved.before.name.lower()} to {moved.clock.name.lower()}"
        )


def offline(answer: OfflineAnswer, *, as_json: bool) -> None:
    """Show what a stopped agent left."""
    if as_json:
        as_json_line(answer)
        return
    out.print(f"[bold]{answer.cabinet}[/]  [red]no agent runs[/]")
    _outbox(answer.outbox)
    _policies(answer.policies, ())
    _alarms(answer.alarms)


def devices(answer: list[DeviceAnswer], *, as_json: bool) -> None:
    """Show the devices with their last values."""
    if as_json:
        as_json_line(answer)
        return
    table = table_of("device", "kind", "line", "address", "values", "decided")
    for one in answer:
        values_text = _briefly(one.latest)
        decided = f"{one.decision.level} %: {one.decision.because}" if one.decision else ""
        if one.trouble:
            decided += f" [red]({plain(one.trouble)})[/]"
        device = one.device
        table.add_row(device.id, device.kind.value, device.line, device.address, values_text, decided)
    out.print(table)


def values(device: str, answer: list[LatestValue], *, as_json: bool) -> None:
    """Show what was read of a device."""
    if as_json:
        as_json_line({"device": device, "values": answer})
        return
    table = table_of("point", "value", "quality")
    for value in answer:
        table.add_row(value.point, _bare(value.value, value.unit), _quality(value.quality, value.reason))
    out.print(table)


def command(record: CommandRecord, *, as_json: bool) -> None:
    """Show what became of a command."""
    if as_json:
        as_json_line(record)
        return
    wanted = record.command
    back = "" if record.value is None else f", read back {_bare(record.value, '')}"
    why = f": {plain(record.reason)}" if record.reason else ""
    out.print(f"{wanted.device} {wanted.point}: {record.state.value}{back}{why}")
    if wanted.until_ms is not None and record.state.value in {"verified", "applied"}:
        out.print(f"It returns to its program at {when(wanted.until_ms)}.")
    if record.state.value in {"queued", "executing"}:
        out.print(f"It has until {when(wanted.expires_ms)} to be begun.")
        out.print(f"Look it up: luciole-edge commands {wanted.id}", soft_wrap=True)


def commands(records: Sequence[CommandRecord], *, as_json: bool) -> None:
    """Show the commands that have not ended."""
    if as_json:
        as_json_line(records)
        return
    if not records:
        out.print("No command is under way.")
        return
    table = table_of("id", "device", "point", "value", "state", "not begun after", "why")
    for record in records:
        wanted = record.command
        value, expires = _bare(wanted.value, ""), when(wanted.expires_ms)
        table.add_row(
            wanted.id, wanted.device, wanted.point, value, record.state.value, expires, plain(record.reason)
        )
    out.print(table)


def found(searched: Sequence[Searched], *, as_json: bool) -> None:
    """Show what is on the lines."""
    if as_json:
        as_json_line(searched)
        return
    table = table_of("line", "address", "kind", "declared as", "what it says")
    for line in searched:
        for one in line.found:
            kind = one.kind.value if one.kind else "?"
            declared = one.device or ("[yellow]nobody[/]" if one.declarable else "–")
            table.add_row(line.line, plain(one.address), kind, declared, plain(one.text))
    if any(line.found for line in searched):
        out.print(table)
    for line in searched:
        if line.trouble:
            out.print(f"[red]{line.line}[/]: {plain(line.trouble)}")
    undeclared = sum(len(_undeclared(line)) for line in searched)
    if undeclared:
        out.print(
            f"{_count(undeclared, 'address', 'addresses')} nobody has declared: --toml prints tables for them."
        )


def device_tables(searched: Sequence[Searched]) -> None:
    """Print settings for what nobody has declared, to be completed by whoever knows it."""
    for line in searched:
        for number, one in enumerate(_undeclared(line), start=1):
            address = one.address if one.address.isdecimal() else msgspec.json.encode(one.address).decode()
            text = " ".join("".join(c if c.isprintable() else " " for c in one.text).split())
            kind = one.kind.value if one.kind else "sensor"
            sys.stdout.write(
                f'\n[[device]]  # {text}\nid = "{line.line}-new-{number}"\nkind = "{kind}"\n'
                f'line = "{line.line}"\naddress = {address}\n'
            )
        if line.trouble:
            sys.stderr.write(f"{line.line}: {line.trouble}\n")
    if not any(map(_undeclared, searched)) and not any(line.trouble for line in searched):
        sys.stderr.write("Everything that was found is declared.\n")


def _undeclared(line: Searched) -> list[Found]:
    """Return what could stand in the settings as a device, and does not."""
    return [one for one in line.found if one.device is None and one.declarable]


def certificate(made: "Made", *, as_json: bool) -> None:
    """Show what certificate was made, and what to do with it."""
    if as_json:
        as_json_line({"certificate": str(made.certificate), "key": str(made.key), "uri": made.uri})
        return
    out.print(f"certificate  {made.certificate}, until {made.valid_until:%Y-%m-%d}")
    out.print(f"key          {made.key}, for its owner alone")
    out.print(f"application  {made.uri}")
    out.print("Bring the certificate, never the key, to each OPC UA server that is to let this cabinet in.")


def joined(answer: JoinAnswer, *, as_json: bool) -> None:
    """Show where a radio device is."""
    if as_json:
        as_json_line(answer)
        return
    colour = "green" if answer.admission in {Admission.HEARD, Admission.JOINED} else "yellow"
    out.print(f"{answer.device}: [{colour}]{answer.admission.value}[/]. {plain(answer.text)}")


def sample(one: Sample, *, as_json: bool) -> None:
    """Show a sample as it comes."""
    if as_json:
        as_json_line(one)
        return
    texts = []
    for position, (point, value) in enumerate(zip(one.points, one.values, strict=True)):
        fault = one.faults.get(position)
        texts.append(f"{point} {_bare(value, '') if fault is None else f'[red]{fault.reason.value}[/]'}")
    out.print(f"{one.device}  {'  '.join(texts)}")


def buffer(answer: BufferAnswer, *, as_json: bool) -> None:
    """Show what waits for the centre."""
    if as_json:
        as_json_line(answer)
        return
    _outbox(answer.figures)
    table = table_of("stream", "next", "lowest kept", "centre has")
    for head in answer.figures.heads:
        numbers = (str(head.next), str(head.floor), str(head.mark))
        table.add_row(head.stream.name.lower(), *numbers)
    out.print(table)
    if answer.oldest:
        table = table_of("waiting", "number", "sealed", "readings", "bytes")
        for batch in answer.oldest:
            weight = (str(batch.readings), str(batch.bytes))
            table.add_row(batch.stream, str(batch.number), when(batch.utc_ms), *weight)
        out.print(table)


def policy(answer: PolicyAnswer, *, body: bool, as_json: bool) -> None:
    """Show the policies in force."""
    if as_json:
        as_json_line(answer)
        return
    if body:
        for text in answer.bodies.values():
            sys.stdout.write(msgspec.json.format(text, indent=2) + "\n")
        return
    _policies(answer.in_force, answer.rejected)


def _lines(lines: Iterable[LineHealth]) -> None:
    """Show the lines; why one is down stands below, uncut: it may name a command to be copied."""
    listed = tuple(lines)
    table = table_of("line", "state", "asked", "failed", "waiting", "silent devices")
    for line in listed:
        colour = "green" if line.state.value == "up" else "red"
        counts = (str(line.transactions), str(line.failures), str(line.queued))
        table.add_row(line.line, f"[{colour}]{line.state.value}[/]", *counts, ", ".join(line.silent))
    out.print(table)
    for line in listed:
        if line.reason:
            out.print(f"{line.line}: {plain(line.reason)}")
        if line.named:
            out.print(f"{line.line}: counted since the start: {_by_name(line.named)}")


def local_positions(figures: LocalFigures | None) -> None:
    """Show how the port for local positions is, and what was refused at it."""
    if figures is None:
        return
    state = "open" if figures.listening else f"[red]closed[/]: {plain(figures.reason)}"
    why = f" ({_by_name(figures.named)}; last: {plain(figures.last_refusal)})" if figures.refused else ""
    out.print(f"local     {state}; {figures.taken} positions taken, {figures.refused} refused{why}")


def _by_name(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _priority(figures: PriorityFigures) -> None:
    if not figures.approaches:
        return
    lapsed = ", [yellow]nothing is asked for: the lease is over[/]" if figures.lapsed else ""
    out.print(
        f"priority  {_count(figures.vehicles, 'vehicle')} on {_count(figures.approaches, 'approach', 'approaches')}, "
        f"{figures.open} open, {figures.granted} of {figures.asked} granted{lapsed}"
    )


def _policies(in_force: Iterable[PolicyInForce], rejected: tuple[str, ...]) -> None:
    texts = [f"{one.kind} version {one.version} ({one.hash[:12]})" for one in in_force]
    out.print(f"policies  {', '.join(texts) or 'none yet: the lamps stay as they are'}")
    for reason in rejected:
        out.print(f"          [yellow]last one rejected[/]: {plain(reason)}")


def _outbox(figures: OutboxFigures) -> None:
    share = 100 * figures.used_bytes / figures.max_bytes
    oldest = f", oldest from {when(figures.oldest_ms)}" if figures.oldest_ms else ""
    waiting = f"{_count(figures.readings, 'reading')} in {_count(figures.batches, 'batch', 'batches')}"
    out.print(
        f"outbox    {waiting} wait for the centre ({figures.bytes / 1000:.1f} kB, {share:.2f} % full){oldest}"
    )
    if figures.shed_readings:
        out.print(f"          [yellow]{figures.shed_readings} readings shed since the start[/]")
    if figures.disk_full:
        out.print("          [red]the disk is full: the outbox grows no further[/]")
    if figures.epoch != figures.sealing_epoch:
        out.print("          what was salvaged is sent first, then what was taken since")
    if figures.salvaged:
        _salvaged(figures.salvaged)
    if figures.error:
        out.print(f"          [red]the disk refuses: {plain(figures.error)}[/]")


def _salvaged(one: Salvaged) -> None:
    came_back = f"{_count(one.readings, 'reading')} in {_count(one.batches, 'batch', 'batches')}"
    kept = f"the damaged file is kept as {one.kept}" if one.kept else "the damaged file is not kept"
    out.print(
        f"          [yellow]salvaged {when(one.at_ms)}[/]: {came_back} came back, {one.lost} known to be lost; "
        f"{plain(kept)}"
    )
    out.print(f"          what was wrong: {plain(one.found)}")


def _alarms(alarms: Iterable[Alarm]) -> None:
    listed = sorted(alarms, key=lambda alarm: alarm.raised_ms)
    if not listed:
        out.print("alarms    none")
        return
    table = table_of("alarm", "severity", "whose", "since", "what")
    for alarm in listed:
        severity = SEVERITY[alarm.type].value
        table.add_row(alarm.type.value, severity, alarm.device, when(alarm.raised_ms), plain(alarm.text))
    out.print(table)


def table_of(*columns: str) -> Table:
    """Return an empty table; what names something is never cut, for somebody may want to type it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    return table


def _briefly(values: Sequence[LatestValue]) -> str:
    """Return a device's values for a list of many devices; what is wrong with all of them is said once."""
    reasons = {value.reason if value.quality is Quality.BAD else None for value in values}
    if len(values) > 1 and len(reasons) == 1 and None not in reasons:
        return f"everything {_quality(Quality.BAD, values[0].reason)}"
    shown = [text for value in values if (text := _brief(value))]
    if len(shown) > SHOWN_VALUES:
        shown[SHOWN_VALUES:] = [f"[dim]and {len(shown) - SHOWN_VALUES} more[/]"]
    return "  ".join(shown) or ("nothing remarkable" if values else "not read yet")


def _brief(value: LatestValue) -> str:
    """Return a value for a list of many: a state that does not hold, or that stands elsewhere, is left out."""
    if value.quality is Quality.BAD:
        return f"{value.point} {_quality(value.quality, value.reason)}"
    if value.point in _DECIDED or value.value is False:
        return ""
    return value.point if value.value is True else f"{value.point} {_bare(value.value, value.unit)}"


def _bare(value: Value, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = f"{value:.6g}" if isinstance(value, float) else plain(str(value))
    shown = "" if unit.startswith("{") else unit  # UCUM's annotations say what is counted, and are no unit
    return f"{text} {shown}".strip() or "–" if value is not None else "–"


def _quality(quality: Quality, reason: Reason | None) -> str:
    if quality is Quality.GOOD:
        return "[green]good[/]"
    colour = "red" if quality is Quality.BAD else "yellow"
    return f"[{colour}]{reason.value if reason else quality.name.lower()}[/]"


def when(utc_ms: int) -> str:
    """Return a moment in the technician's own time."""
    try:
        return datetime.fromtimestamp(utc_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # what somebody has set may be beyond every calendar
        return f"{utc_ms} ms"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
