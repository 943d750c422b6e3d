"""The bytes of RSMP's messages in each version of the core (3.1.2 to 3.2.2, Basic structure).

One form of each message is used inside, that of core 3.2.2. What an earlier version says otherwise is brought into
it when a message is decoded and out of it when it is encoded, by the table FEATURES.

Where text and published schemas of RSMP disagree, what we write satisfies both:

- an alarm's `sS` is "suspended" with `aSp` Issue and "Suspended" with Suspend (schemas; the text shows both);
- a supervisor's Acknowledge carries `aTs` (the schemas require it, the text's example has none);
- `uRt` is written in whole seconds (the text allows decimals, the schemas do not); decimals are read.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from protocols.errors import LocalProtocolError
from protocols.rsmp.messages import (
    M_TYPE,
    NEWEST,
    WITHOUT_VALUE,
    Acknowledgement,
    Activity,
    AggregatedStatus,
    AggregatedStatusRequest,
    Alarm,
    AlarmEvent,
    CommandRequest,
    CommandResponse,
    CommandValue,
    Core,
    Elements,
    Fault,
    Message,
    MessageAck,
    MessageError,
    MessageNotAck,
    Quality,
    StatusRequest,
    StatusResponse,
    StatusSubscribe,
    StatusUnsubscribe,
    StatusUpdate,
    StatusValue,
    Subscription,
    Suspension,
    Version,
    Watchdog,
    is_message_id,
    milliseconds,
    printable,
    rate_ms,
    type_of,
)

_RATE: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_DECODER: Final = msgspec.json.Decoder(Message)
_RAW: Final = msgspec.json.Decoder()
_ENCODER: Final = msgspec.json.Encoder()
_TYPES: Final = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (
        Version,
        MessageAck,
        MessageNotAck,
        Watchdog,
        AggregatedStatus,
        AggregatedStatusRequest,
        Alarm,
        StatusRequest,
        StatusUnsubscribe,
        StatusSubscribe,
        StatusResponse,
        StatusUpdate,
        CommandRequest,
        CommandResponse,
    )
)


class Features(msgspec.Struct, frozen=True):
    """What a version of the core says otherwise than 3.2.2 (from the published schemas of each).

    Attributes:
        boolean_elements: `se` holds JSON booleans; strings "true" and "false" before.
        undefined: a status may be "undefined", and one without a value is null; "unknown" and "" before.
        arrays: a status may be an array (S0033, S0035).
        on_change: subscriptions have `sOc`; before, `uRt` "0" means "when the value changes".
        requests: aggregated status and alarms can be asked for.
        exact_case: the words of an alarm have one spelling; upper and lower first letters before.
    """

    boolean_elements: bool = True
    undefined: bool = True
    arrays: bool = True
    on_change: bool = True
    requests: bool = True
    exact_case: bool = True


_V3_1_5: Final = Features(arrays=False, exact_case=False)
_V3_1_4: Final = replace(_V3_1_5, on_change=False, requests=False)
FEATURES: Final[Mapping[Core, Features]] = {
    Core.V3_1_2: replace(_V3_1_4, boolean_elements=False, undefined=False),
    Core.V3_1_3: _V3_1_4,
    Core.V3_1_4: _V3_1_4,
    Core.V3_1_5: _V3_1_5,
    Core.V3_2_0: Features(),
    Core.V3_2_1: Features(),
    Core.V3_2_2: Features(),
}


# --- decoding ---


def decode(packet: bytes, core: Core = NEWEST) -> Message:
    """Return what a packet says, without its form feed, in the form of core 3.2.2.

    Args:
        packet: the bytes between two form feeds.
        core: the version that both ends have agreed on; the newest while they have not.

    Raises:
        MessageError: with the fault's name, and the message's id if it can be told.
    """
    try:
        message = _DECODER.decode(packet.decode())
    except UnicodeDecodeError as error:
        raise MessageError(Fault.NOT_UTF8, f"no UTF-8 at byte {error.start}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _explained(packet, error) from error
    try:
        return _canonical(message, FEATURES[core])
    except MessageError as error:
        m_id = getattr(message, "m_id", "")
        raise MessageError(
            error.fault, str(error), m_id if is_message_id(m_id) else "", type_of(message)
        ) from error


def _explained(packet: bytes, error: Exception) -> MessageError:
    """Return why a packet could not be decoded, naming it as closely as can be."""
    try:
        raw = _RAW.decode(packet)
    except (msgspec.DecodeError, RecursionError) as broken:
        return MessageError(Fault.NOT_JSON, f"no JSON: {printable(str(broken))}")
    if not isinstance(raw, dict):
        return MessageError(Fault.NOT_JSON, "no JSON object")
    m_id = raw["mId"] if is_message_id(raw.get("mId")) else ""
    kind = raw.get("type")
    named = kind if isinstance(kind, str) else ""
    if raw.get("mType") != M_TYPE:
        return MessageError(
            Fault.WRONG_M_TYPE, f"mType is {printable(raw.get('mType'))}, not {M_TYPE}", m_id, named
        )
    if named not in _TYPES:
        return MessageError(Fault.UNKNOWN_TYPE, f"Unknown packet type: {printable(kind)}", m_id, named)
    fault = Fault.NULL if "got `null`" in str(error) else Fault.MALFORMED
    return MessageError(fault, f"{named}: {printable(str(error))}", m_id, named)


def _canonical(message: Message, features: Features) -> Message:
    """Return a message in the form of core 3.2.2, checked beyond its shape."""
    _check_id(message.of if isinstance(message, MessageAck | MessageNotAck) else message.m_id)
    at = getattr(message, "at", UNSET)
    if isinstance(at, str):
        milliseconds(at)
    match message:
        case AggregatedStatus():
            return replace(message, elements=_booleans(message.elements, features))
        case Alarm():
            return _canonical_alarm(message, features)
        case StatusSubscribe():
            return replace(message, wanted=tuple(_canonical_rate(one, features) for one in message.wanted))
        case StatusResponse() | StatusUpdate():
            return replace(message, values=tuple(_canonical_status(one, features) for one in message.values))
        case CommandResponse():
            _check_command_values(message.values)
        case AggregatedStatusRequest() if not features.requests:
            raise MessageError(Fault.NOT_IN_VERSION, "AggregatedStatusRequest came with core 3.1.5")
    return message


def _check_id(text: str) -> None:
    if not is_message_id(text):
        raise MessageError(Fault.WRONG_ID, f"{printable(text)} is no UUID version 4")


_WORDS: Final = {"true": True, "false": False}


def _booleans(elements: Elements, features: Features) -> Elements:
    if features.boolean_elements:
        if not all(isinstance(one, bool) for one in elements):
            raise MessageError(Fault.MALFORMED, "AggregatedStatus: se holds booleans")
        return elements
    words = [_WORDS.get(one.lower()) if isinstance(one, str) else None for one in elements]
    if None in words:
        raise MessageError(Fault.MALFORMED, 'AggregatedStatus: se holds "true" and "false"')
    return tuple(bool(word) for word in words)


_SCHEMAS_OWN: Final = ("suspended",)


def _spelt(word: str, kind: type[StrEnum], features: Features, also: Sequence[str] = ()) -> StrEnum:
    """Return the member of `kind` that a word is, in any of the spellings that the version allows."""
    for member in kind:
        if word == member.value or (word in also and word.lower() == member.value.lower()):
            return member
        if (
            not features.exact_case
            and word[1:] == member.value[1:]
            and word[:1].lower() == member.value[:1].lower()
        ):
            return member
    raise MessageError(Fault.MALFORMED, f"Alarm: {printable(word)} is no {kind.__name__.lower()}")


def _canonical_alarm(alarm: Alarm, features: Features) -> Alarm:
    event = _spelt(alarm.event, AlarmEvent, features)
    if event is AlarmEvent.REQUEST and not features.requests:
        raise MessageError(Fault.NOT_IN_VERSION, "alarms can be asked for since core 3.1.5")
    told = (
        alarm.ack,
        alarm.activity,
        alarm.suspension,
        alarm.at,
        alarm.category,
        alarm.priority,
        alarm.values,
    )
    if event is AlarmEvent.ISSUE and UNSET in told:
        raise MessageError(Fault.MALFORMED, "Alarm: a part of the alarm's status is missing")
    ack, activity, suspension = alarm.ack, alarm.activity, alarm.suspension
    return replace(
        alarm,
        event=event,
        ack=ack if ack is UNSET else _spelt(ack, Acknowledgement, features),
        activity=activity if activity is UNSET else _spelt_activity(activity, features),
        suspension=suspension
        if suspension is UNSET
        else _spelt(suspension, Suspension, features, _SCHEMAS_OWN),
    )


def _spelt_activity(word: str, features: Features) -> StrEnum:
    """Return the activity; before core 3.2 "inactive" and "InActive" stand for "inActive"."""
    also = () if features.exact_case else ("inactive", "InActive")
    return _spelt(word, Activity, features, also)


def _canonical_rate(wanted: Subscription, features: Features) -> Subscription:
    if _RATE.fullmatch(wanted.rate) is None:
        raise MessageError(
            Fault.MALFORMED, f"StatusSubscribe: uRt {printable(wanted.rate)} is no number of seconds"
        )
    if not features.on_change:
        return replace(wanted, on_change=rate_ms(wanted) == 0)
    if not wanted.on_change and rate_ms(wanted) == 0:
        raise MessageError(Fault.MALFORMED, "StatusSubscribe: uRt 0 without sOc asks for nothing")
    return wanted


def _canonical_status(status: StatusValue, features: Features) -> StatusValue:
    value, quality = status.value, status.quality
    if not features.undefined:
        if quality is Quality.UNDEFINED:
            raise MessageError(Fault.NOT_IN_VERSION, 'q "undefined" came with core 3.1.3')
        if quality is Quality.UNKNOWN:
            return replace(status, value=None)
    if quality in WITHOUT_VALUE:
        if value is not None:
            raise MessageError(Fault.MALFORMED, f"{status.code} {status.name}: a value, and q {quality}")
    elif value is None:
        raise MessageError(
            Fault.NULL, f"{printable(status.code)} {printable(status.name)}: null, and q {quality}"
        )
    elif isinstance(value, list) and not features.arrays:
        raise MessageError(Fault.NOT_IN_VERSION, f"{printable(status.code)}: arrays came with core 3.2")
    return status


def _check_command_values(values: Sequence[CommandValue]) -> None:
    for one in values:
        if (one.value is None) is not (one.age in WITHOUT_VALUE):
            fault = Fault.NULL if one.value is None else Fault.MALFORMED
            raise MessageError(
                fault,
                f"{printable(one.code)} {printable(one.name)}: {printable(one.value)}, and age {one.age}",
            )


# --- encoding ---


def encode(message: Message, core: Core = NEWEST) -> bytes:
    """Return the bytes of a message in a version of the core, without a form feed.

    Raises:
        LocalProtocolError: if the version cannot say it, or it breaks RSMP's rules.
    """
    said = _older(message, FEATURES[core])
    try:
        _canonical(said, FEATURES[core])
    except MessageError as error:
        raise LocalProtocolError(f"{type_of(message)} must not be sent: {error}") from error
    return _ENCODER.encode(said)


def _older(message: Message, features: Features) -> Message:
    """Return a message as a version of the core says it."""
    match message:
        case AggregatedStatus() if not features.boolean_elements:
            return replace(message, elements=tuple(str(one).lower() for one in message.elements))
        case Alarm() if message.event == AlarmEvent.ISSUE and message.suspension == Suspension.SUSPENDED:
            return replace(message, suspension="suspended")
        case StatusSubscribe():
            return replace(message, wanted=tuple(_older_rate(one, features) for one in message.wanted))
        case StatusResponse() | StatusUpdate() if not features.arrays:
            return replace(message, values=tuple(_older_status(one, features) for one in message.values))
    return message


def _older_rate(wanted: Subscription, features: Features) -> Subscription:
    if not wanted.rate.isdecimal():
        raise LocalProtocolError(f"uRt {wanted.rate}: the published schemas take whole seconds only")
    if features.on_change:
        return wanted
    if wanted.on_change and wanted.rate != "0":
        raise LocalProtocolError("before core 3.1.5 a status is told at changes or at intervals, not at both")
    return replace(wanted, on_change=UNSET)


def _older_status(status: StatusValue, features: Features) -> StatusValue:
    if isinstance(status.value, list):
        return replace(status, value="" if not features.undefined else None, quality=Quality.UNKNOWN)
    if status.quality in WITHOUT_VALUE and not features.undefined:
        return replace(status, value="", quality=Quality.UNKNOWN)
    return status
