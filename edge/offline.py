"""What the agent's files say while no agent runs. They are opened read-only, under the agent's own lock."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from drivers.database import open_readonly
from edge.answers import BufferAnswer, PolicyAnswer, PriorityAnswer
from edge.config import Settings
from edge.lock import AlreadyRunsError, only_agent
from edge.outbox.rows import kept_now, oldest_batches, read_epochs, read_salvaged, used_bytes, weigh
from edge.outbox.store import OutboxFigures
from edge.state import CommandRecord, State
from protocols.backhaul.messages import PolicyInForce
from protocols.model.alarm import Alarm
from protocols.model.ids import CommandId
from protocols.model.policy import PolicyKind


class NothingHereError(Exception):
    """There is nothing to look at; the text says why."""


class OfflineAnswer(msgspec.Struct, frozen=True):
    """What a stopped agent left."""

    cabinet: str
    running: bool
    outbox: OutboxFigures
    policies: tuple[PolicyInForce, ...]
    alarms: tuple[Alarm, ...]


def look(settings: Settings) -> OfflineAnswer:
    """Return what a stopped agent left; raises NothingHereError."""
    figures = buffer(settings, 0).figures
    with _held(settings):
        state = State.look_at(settings.directory / "state.db")
        try:
            return OfflineAnswer(settings.cabinet, False, figures, state.in_force(), tuple(state.alarms()))
        finally:
            state.close()


def buffer(settings: Settings, limit: int) -> BufferAnswer:
    """Return what waits for the centre; raises NothingHereError."""
    with _held(settings):
        db = open_readonly(settings.directory / "outbox.db")
        try:
            return BufferAnswer(_figures(db, settings), oldest_batches(db, limit))
        finally:
            db.close()


def policy(settings: Settings) -> PolicyAnswer:
    """Return the policies in force; raises NothingHereError."""
    with _held(settings):
        state = State.look_at(settings.directory / "state.db")
        try:
            bodies = {kind.value: one.signed.body.decode() for kind, one in state.policies().items()}
            return PolicyAnswer(state.in_force(), bodies, ())
        finally:
            state.close()


def commands(settings: Settings, command_id: CommandId | None) -> list[CommandRecord]:
    """Return one command, or all that have not ended; raises NothingHereError."""
    with _held(settings):
        state = State.look_at(settings.directory / "state.db")
        try:
            if command_id is None:
                return state.open_commands()
            found = state.command(command_id)
            return [] if found is None else [found]
        finally:
            state.close()


def priority(settings: Settings) -> PriorityAnswer:
    """Return what can be said of priority without an agent; raises NothingHereError."""
    with _held(settings):
        state = State.look_at(settings.directory / "state.db")
        try:
            stored = state.policies().get(PolicyKind.PRIORITY)
            rules = stored.policy().priority if stored else None
            left = tuple(state.left_priority())
        finally:
            state.close()
    return PriorityAnswer(False, True, rules.lease_until_ms if rules else None, left=left)


def _figures(db: sqlite3.Connection, settings: Settings) -> OutboxFigures:
    epochs = read_epochs(db)
    waiting = weigh(db)
    return OutboxFigures(
        epoch=next(iter(epochs), 0),
        batches=waiting.batches,
        readings=waiting.readings,
        bytes=waiting.bytes,
        used_bytes=used_bytes(db),
        max_bytes=round(settings.document.outbox.max_mb * 1e6),
        oldest_ms=waiting.oldest_ms,
        heads=tuple(state.head() for state in next(iter(epochs.values()), {}).values()),
        sealing_epoch=next(reversed(epochs), 0),
        salvaged=kept_now(read_salvaged(db), settings.directory / "outbox.db"),
    )


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Hold the agent's lock while looking, so that no agent starts under our eyes."""
    try:
        if not (settings.directory / "outbox.db").exists():
            raise NothingHereError(f"no agent has run here yet: {settings.directory} holds no outbox")
        with only_agent(settings.directory):
            yield
    except AlreadyRunsError as error:
        raise NothingHereError(f"{error}, but does not answer at {settings.socket}") from error
    except (sqlite3.Error, PermissionError) as error:
        raise NothingHereError(f"{settings.directory}: {error}") from error
    except (KeyError, ValueError) as error:
        raise NothingHereError(f"{settings.directory}: damaged; the next start salvages it") from error
