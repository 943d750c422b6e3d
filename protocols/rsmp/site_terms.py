"""What a site is, what it must not forget, and what it tells its caller: the words of `site_role`."""

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from protocols.rsmp.alarms import AlarmRecord
from protocols.rsmp.exchange import Closed, NotAcknowledged, Ready, Terms, Violation
from protocols.rsmp.messages import CommandRequest
from protocols.rsmp.outgoing import MIN_BUFFER, Buffered
from protocols.rsmp.subscriptions import StatusKey
from protocols.rsmp.sxl import ComponentType, Sxl

HEALTHY: Final = (False, False, False, False, False, True, False, False)
"""Aggregated status of a site in use without a fault."""


class SiteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a site is.

    Attributes:
        terms: what it offers; its role is SITE.
        sxl: its signal exchange list.
        main: its main component, which the aggregated status is of.
        components: every component that it has, the main one too, and what each is.
        commands: codes that it carries out; another of its list is answered with "unknown".
        buffered: codes of statuses that are kept while nobody listens.
        buffer_size: messages that it then holds.
        security_codes: by level, 1 and 2; never logged.
    """

    terms: Terms
    sxl: Sxl
    main: str
    components: Mapping[str, ComponentType]
    commands: frozenset[str] = frozenset()
    buffered: frozenset[str] = frozenset()
    buffer_size: int = MIN_BUFFER
    security_codes: Mapping[int, str] = {}


class Order(msgspec.Struct, frozen=True):
    """One command with its arguments by name, within the list's ranges."""

    code: str
    arguments: Mapping[str, str]


class CommandAsked(msgspec.Struct, frozen=True):
    """The supervisor orders something; it waits for `accept` or `refuse`.

    Attributes:
        component: whose.
        orders: what, in order; its security code has been checked.
        request: the message itself.
        connection: on which it came.
    """

    component: str
    orders: tuple[Order, ...]
    request: CommandRequest
    connection: int


class ClockTold(msgspec.Struct, frozen=True):
    """The supervisor's clock, from its watchdog: at the first one and once a day a site may go by it."""

    utc_ms: int


class StatusTold(msgspec.Struct, frozen=True):
    """Statuses have gone out, so an end state that is told once has been told."""

    keys: frozenset[StatusKey]


class AlarmChanged(msgspec.Struct, frozen=True):
    """The supervisor has acknowledged, suspended or resumed an alarm."""

    alarm: AlarmRecord


class Kept(msgspec.Struct, frozen=True):
    """What must outlive a power cut."""

    alarms: tuple[AlarmRecord, ...] = ()
    buffer: tuple[Buffered, ...] = ()
    dropped: int = 0


SiteEvent: TypeAlias = (
    Ready | NotAcknowledged | Violation | Closed | CommandAsked | ClockTold | StatusTold | AlarmChanged
)
