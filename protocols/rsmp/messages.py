"""The messages of RSMP (core 3.2.2, Basic structure), in the form that is used inside; `codec` has their bytes."""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType, field

from protocols.errors import LocalProtocolError, RemoteProtocolError

M_TYPE: Final = "rSMsg"
MAX_UTC_MS: Final = 253_402_300_799_999
"""The last millisecond that four digits of a year can say."""
MAX_ITEMS: Final = 4096
"""Values in one message: more than a controller has statuses; what a peer can make us loop over."""
_LONG: Final = 120
"""Characters of a peer's text that are repeated: enough to see what it is."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MESSAGE_ID: Final = re.compile(
    r"[a-fA-F0-9]{8}-[a-fA-F0-9]{4}-4[a-fA-F0-9]{3}-[89abAB][a-fA-F0-9]{3}-[a-fA-F0-9]{12}"
)
_STAMP: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


class Core(StrEnum):
    """The versions of the core that are spoken here, oldest first."""

    V3_1_2 = "3.1.2"
    V3_1_3 = "3.1.3"
    V3_1_4 = "3.1.4"
    V3_1_5 = "3.1.5"
    V3_2_0 = "3.2.0"
    V3_2_1 = "3.2.1"
    V3_2_2 = "3.2.2"


NEWEST: Final = Core.V3_2_2


class Fault(StrEnum):
    """What a peer did wrong; the names under which it is counted."""

    TOO_LONG = "too_long"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    WRONG_M_TYPE = "wrong_m_type"
    UNKNOWN_TYPE = "unknown_type"
    WRONG_ID = "wrong_id"
    WRONG_TIME = "wrong_time"
    NULL = "null"
    MALFORMED = "malformed"
    NOT_IN_VERSION = "not_in_version"
    NOT_FOR_US = "not_for_us"
    OUT_OF_ORDER = "out_of_order"
    UNKNOWN_ACKNOWLEDGEMENT = "unknown_acknowledgement"
    WATCHDOG_MISSED = "watchdog_missed"
    VERSION_MISMATCH = "version_mismatch"
    SXL_MISMATCH = "sxl_mismatch"
    UNKNOWN_SITE = "unknown_site"


class MessageError(RemoteProtocolError):
    """A peer's message that means nothing, or not what the version allows.

    Attributes:
        fault: its name.
        m_id: of the message, if it has a valid one: then it can be answered with MessageNotAck.
        type: of the message, as far as it can be told.
    """

    def __init__(self, fault: Fault, text: str, m_id: str = "", kind: str = "") -> None:
        super().__init__(text)
        self.fault = fault
        self.m_id = m_id
        self.type = kind


class Quality(StrEnum):
    """How far a value can be believed: `q` of a status, `age` of a command's value."""

    RECENT = "recent"
    OLD = "old"
    """Not up to date; of buffered values."""
    UNDEFINED = "undefined"
    """There is no such component."""
    UNKNOWN = "unknown"


WITHOUT_VALUE: Final = frozenset({Quality.UNDEFINED, Quality.UNKNOWN})


class AlarmEvent(StrEnum):
    """What an alarm message is about: `aSp`."""

    ISSUE = "Issue"
    REQUEST = "Request"
    ACKNOWLEDGE = "Acknowledge"
    SUSPEND = "Suspend"
    RESUME = "Resume"


class Acknowledgement(StrEnum):
    """`ack`."""

    ACKNOWLEDGED = "Acknowledged"
    NOT_ACKNOWLEDGED = "notAcknowledged"


class Activity(StrEnum):
    """`aS`."""

    ACTIVE = "Active"
    INACTIVE = "inActive"


class Suspension(StrEnum):
    """`sS`; "suspended" is the spelling of the schemas when `aSp` is Issue."""

    SUSPENDED = "Suspended"
    NOT_SUSPENDED = "notSuspended"


Value: TypeAlias = str | list[dict[str, str]] | None
"""A status: a string, from core 3.2 on an array too; None for none."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every message has."""

    m_type: Literal["rSMsg"] = field(name="mType", default="rSMsg")


class _Identified(_Message, frozen=True, kw_only=True):
    """What every message but acknowledgements has.

    Attributes:
        m_id: UUID version 4, new for each transmission; "" until it is sent.
    """

    m_id: str = field(name="mId", default="")


class _OfComponent(_Identified, frozen=True, kw_only=True):
    """What every message about a component has.

    Attributes:
        component: its id.
        nts_object: its grouping object's id in the Swedish national system, or "".
        external: its external id there, or "".
    """

    component: str = field(name="cId")
    nts_object: str = field(name="ntsOId", default="")
    external: str = field(name="xNId", default="")


class RsmpVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One supported version of the core."""

    vers: str


class SiteId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One id of a site."""

    id: Annotated[str, msgspec.Meta(min_length=1)] = field(name="sId")


_Few = msgspec.Meta(min_length=1, max_length=64)
_Some = msgspec.Meta(min_length=1, max_length=MAX_ITEMS)


class Version(_Identified, frozen=True, kw_only=True, tag="Version"):
    """The first message of both ends (RSMP/SXL Version)."""

    versions: Annotated[tuple[RsmpVersion, ...], _Few] = field(name="RSMP")
    sites: Annotated[tuple[SiteId, ...], _Few] = field(name="siteId")
    sxl: str = field(name="SXL")


class MessageAck(_Message, frozen=True, kw_only=True, tag="MessageAck"):
    """A message was understood (Message acknowledgement)."""

    of: str = field(name="oMId")


class MessageNotAck(_Message, frozen=True, kw_only=True, tag="MessageNotAck"):
    """A message was not understood, or is not allowed."""

    of: str = field(name="oMId")
    reason: str = field(name="rea", default="")


class Watchdog(_Identified, frozen=True, kw_only=True, tag="Watchdog"):
    """The other end lives, and what its clock says."""

    at: str = field(name="wTs")


Elements: TypeAlias = tuple[bool | str, ...]


class AggregatedStatus(_OfComponent, frozen=True, kw_only=True, tag="AggregatedStatus"):
    """How a site is as a whole.

    Attributes:
        at: when it became so.
        position: functional position, null in the traffic-light list.
        state: functional state, the same.
        elements: local mode; no communications; high, medium, low priority fault; in use; idle; not connected.
    """

    at: str = field(name="aSTS")
    position: str | None = field(name="fP", default=None)
    state: str | None = field(name="fS", default=None)
    elements: Annotated[Elements, msgspec.Meta(min_length=8, max_length=8)] = field(name="se")


class AggregatedStatusRequest(_OfComponent, frozen=True, kw_only=True, tag="AggregatedStatusRequest"):
    """Ask for it."""


class ReturnValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of an alarm."""

    name: str = field(name="n")
    value: str = field(name="v")


class Alarm(_OfComponent, frozen=True, kw_only=True, tag="Alarm"):
    """An alarm as a site tells it, or what a supervisor wants of it: then without a status.

    Attributes:
        code: as the SXL has it.
        external_code: the maker's own code and description, or "".
        nts_code: the code in the Swedish national system, or "".
        event: an `AlarmEvent`: what this message is about.
        ack: an `Acknowledgement`.
        activity: an `Activity`.
        suspension: a `Suspension`.
        at: when it last became what `event` is about.
        category: "T" traffic, "D" technical.
        priority: "1" act at once, "2" within the next shift, "3" at the next maintenance.
        values: its return values.
    """

    code: str = field(name="aCId")
    external_code: str = field(name="xACId", default="")
    nts_code: str = field(name="xNACId", default="")
    event: str = field(name="aSp")
    ack: str | UnsetType = field(name="ack", default=UNSET)
    activity: str | UnsetType = field(name="aS", default=UNSET)
    suspension: str | UnsetType = field(name="sS", default=UNSET)
    at: str | UnsetType = field(name="aTs", default=UNSET)
    category: Literal["T", "D"] | UnsetType = field(name="cat", default=UNSET)
    priority: Literal["1", "2", "3"] | UnsetType = field(name="pri", default=UNSET)
    values: Annotated[tuple[ReturnValue, ...], msgspec.Meta(max_length=MAX_ITEMS)] | UnsetType = field(
        name="rvs", default=UNSET
    )

    @property
    def tells(self) -> bool:
        """Tell whether it carries the alarm's whole status, as a site's messages do."""
        told = (self.ack, self.activity, self.suspension, self.at, self.category, self.priority, self.values)
        return UNSET not in told


class StatusName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A status and one of its names."""

    code: str = field(name="sCI")
    name: str = field(name="n")


class StatusRequest(_OfComponent, frozen=True, kw_only=True, tag="StatusRequest"):
    """Ask for statuses once."""

    wanted: Annotated[tuple[StatusName, ...], _Some] = field(name="sS")


class StatusUnsubscribe(_OfComponent, frozen=True, kw_only=True, tag="StatusUnsubscribe"):
    """End subscriptions."""

    wanted: Annotated[tuple[StatusName, ...], _Some] = field(name="sS")


class Subscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A status to be told from now on.

    Attributes:
        rate: seconds between two updates, as a decimal string; "0" for none.
        on_change: whether it is told when it changes.
    """

    code: str = field(name="sCI")
    name: str = field(name="n")
    rate: str = field(name="uRt", default="0")
    on_change: bool | UnsetType = field(name="sOc", default=True)


class StatusSubscribe(_OfComponent, frozen=True, kw_only=True, tag="StatusSubscribe"):
    """Ask for statuses from now on."""

    wanted: Annotated[tuple[Subscription, ...], _Some] = field(name="sS")


class StatusValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A status as the site has it; `quality` is a `Quality`."""

    code: str = field(name="sCI")
    name: str = field(name="n")
    value: Value = field(name="s")
    quality: Quality = field(name="q")


class StatusResponse(_OfComponent, frozen=True, kw_only=True, tag="StatusResponse"):
    """What was asked for; `at` is when it was fetched."""

    at: str = field(name="sTs")
    values: Annotated[tuple[StatusValue, ...], _Some] = field(name="sS")


class StatusUpdate(_OfComponent, frozen=True, kw_only=True, tag="StatusUpdate"):
    """What is subscribed to; `at` is when it was fetched."""

    at: str = field(name="sTs")
    values: Annotated[tuple[StatusValue, ...], _Some] = field(name="sS")


class CommandArgument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One argument of a command: code, name, order and value."""

    code: str = field(name="cCI")
    name: str = field(name="n")
    order: str = field(name="cO")
    value: str = field(name="v")


class CommandRequest(_OfComponent, frozen=True, kw_only=True, tag="CommandRequest"):
    """Order something to be done."""

    arguments: Annotated[tuple[CommandArgument, ...], _Some] = field(name="arg")


class CommandValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an argument has become."""

    code: str = field(name="cCI")
    name: str = field(name="n")
    value: str | None = field(name="v")
    age: Quality


class CommandResponse(_OfComponent, frozen=True, kw_only=True, tag="CommandResponse"):
    """What became of an order."""

    at: str = field(name="cTS")
    values: Annotated[tuple[CommandValue, ...], msgspec.Meta(max_length=MAX_ITEMS)] = field(name="rvs")


Acknowledging: TypeAlias = MessageAck | MessageNotAck
FromSite: TypeAlias = AggregatedStatus | Alarm | StatusResponse | StatusUpdate | CommandResponse
FromSupervisor: TypeAlias = (
    AggregatedStatusRequest | Alarm | StatusRequest | StatusSubscribe | StatusUnsubscribe | CommandRequest
)
Payload: TypeAlias = FromSite | FromSupervisor
Identified: TypeAlias = Version | Watchdog | Payload
Message: TypeAlias = Acknowledging | Identified
AnyIdentified = TypeVar("AnyIdentified", bound=Identified)

# --- time and identities ---


def stamp(utc_ms: int) -> str:
    """Return a moment as RSMP writes it: UTC, exactly three decimals.

    Raises:
        LocalProtocolError: if it is not within the years 1970 to 9999.
    """
    if not 0 <= utc_ms <= MAX_UTC_MS:
        raise LocalProtocolError(f"{utc_ms} ms is no moment that RSMP can say")
    text = (_EPOCH + timedelta(milliseconds=utc_ms)).isoformat(timespec="milliseconds")
    return f"{text[:-6]}Z"


def milliseconds(text: str) -> int:
    """Return the UTC milliseconds of a time stamp.

    Raises:
        MessageError: if it is none.
    """
    if _STAMP.fullmatch(text) is None:
        raise MessageError(Fault.WRONG_TIME, f"{printable(text)} is no time stamp with three decimals")
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
    except ValueError as error:
        raise MessageError(Fault.WRONG_TIME, f"{printable(text)} is no moment") from error


def is_message_id(text: object) -> bool:
    """Tell whether `text` is a UUID version 4."""
    return isinstance(text, str) and _MESSAGE_ID.fullmatch(text) is not None


def printable(value: object) -> str:
    """Return a peer's value as it may stand in a log or an answer: short, and in printable ASCII."""
    text = value if isinstance(value, str) else repr(value)
    return "".join(one if " " <= one <= "~" else ascii(one)[1:-1] for one in text[:_LONG])[:_LONG]


def type_of(message: Message) -> str:
    """Return the message's type as it stands on the wire."""
    return str(message.__struct_config__.tag)


def rate_ms(wanted: Subscription) -> int:
    """Return the milliseconds between two updates; 0 for none."""
    return round(float(wanted.rate) * 1000)
