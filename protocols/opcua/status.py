"""StatusCode to quality and reason.

A StatusCode is an unsigned 32-bit number (OPC 10000-4, 7.39.1): severity in bits 30–31, the condition in bits
16–27, and below bit 16 flags that do not change what it means. So a condition is looked up without its flags, and
one that is not listed here is judged by its severity alone: a server may know conditions that we do not.

Names and numbers are those of OPC 10000-6, annex A.2; what they say of a value stands in OPC 10000-4, 7.39.2
("common") and OPC 10000-8, 6.3 ("data access").
"""

from collections.abc import Mapping
from typing import Final

from protocols.errors import LocalProtocolError
from protocols.model.reading import Fault, Quality, Reason

MAX_CODE: Final = 0xFFFF_FFFF
GOOD: Final = 0

_CONDITION: Final = 0xFFFF_0000
_SEVERITY_SHIFT: Final = 30
_UNCERTAIN: Final = 0b01
_INFO_TYPE: Final = 0x0C00
"""Bits 10–11: what the flags below mean (7.39.1, table 180)."""
_INFO_DATA_VALUE: Final = 0x0400
_OVERFLOW: Final = 0x0080
"""Bit 7, valid with InfoType DataValue: the queue of a monitored item has lost values (7.39.1)."""

_GOOD_BUT: Final[Mapping[int, Reason]] = {
    0x00A5_0000: Reason.NOT_AVAILABLE,  # GoodNoData (OPC 10000-11): it went well, and there is nothing
}
_UNCERTAIN_REASONS: Final[Mapping[int, Reason]] = {
    0x408F_0000: Reason.STALE,  # UncertainNoCommunicationLastUsableValue (data access)
    0x4090_0000: Reason.STALE,  # UncertainLastUsableValue (data access): whatever updated it has stopped
    0x4091_0000: Reason.STALE,  # UncertainSubstituteValue (data access): set by hand, not measured
    0x4092_0000: Reason.STALE,  # UncertainInitialValue (data access): never measured since the start
    0x4093_0000: Reason.INACCURATE,  # UncertainSensorNotAccurate (data access)
    0x4094_0000: Reason.OUT_OF_RANGE,  # UncertainEngineeringUnitsExceeded (data access)
    0x4095_0000: Reason.INACCURATE,  # UncertainSubNormal (data access): fewer good sources than there must be
    0x40A4_0000: Reason.INACCURATE,  # UncertainDataSubNormal (OPC 10000-11)
}
_BAD_REASONS: Final[Mapping[int, Reason]] = {
    0x8005_0000: Reason.NO_ANSWER,  # BadCommunicationError (common)
    0x800A_0000: Reason.NO_ANSWER,  # BadTimeout (common)
    0x8031_0000: Reason.NO_ANSWER,  # BadNoCommunication (common, data access): the server lost the data source
    0x8085_0000: Reason.NO_ANSWER,  # BadRequestTimeout (common)
    0x808A_0000: Reason.NO_ANSWER,  # BadNotConnected (data access): the variable is not connected to a source
    0x8006_0000: Reason.GARBLED,  # BadEncodingError (common)
    0x8007_0000: Reason.GARBLED,  # BadDecodingError (common)
    0x8074_0000: Reason.GARBLED,  # BadTypeMismatch (common)
    0x801F_0000: Reason.REFUSED,  # BadUserAccessDenied (common)
    0x803A_0000: Reason.REFUSED,  # BadNotReadable (common)
    0x803B_0000: Reason.REFUSED,  # BadNotWritable (common)
    0x80E6_0000: Reason.REFUSED,  # BadSecurityModeInsufficient (common)
    0x800C_0000: Reason.LINE_DOWN,  # BadShutdown (common)
    0x800E_0000: Reason.LINE_DOWN,  # BadServerHalted (common)
    0x803C_0000: Reason.OUT_OF_RANGE,  # BadOutOfRange (common)
    0x8032_0000: Reason.NOT_AVAILABLE,  # BadWaitingForInitialData (common)
    0x8033_0000: Reason.NOT_AVAILABLE,  # BadNodeIdInvalid (common)
    0x8034_0000: Reason.NOT_AVAILABLE,  # BadNodeIdUnknown (common)
    0x8035_0000: Reason.NOT_AVAILABLE,  # BadAttributeIdInvalid (common)
    0x803E_0000: Reason.NOT_AVAILABLE,  # BadNotFound (common)
    0x806F_0000: Reason.NOT_AVAILABLE,  # BadNoMatch (common): a browse path that leads nowhere
    0x8089_0000: Reason.NOT_AVAILABLE,  # BadConfigurationError (data access)
    0x808D_0000: Reason.NOT_AVAILABLE,  # BadOutOfService (data access): switched off on purpose
    0x809B_0000: Reason.NOT_AVAILABLE,  # BadNoData (OPC 10000-11)
    0x809D_0000: Reason.NOT_AVAILABLE,  # BadDataLost (OPC 10000-11)
    0x809E_0000: Reason.NOT_AVAILABLE,  # BadDataUnavailable (OPC 10000-11)
    0x808B_0000: Reason.SENSOR_FAILURE,  # BadDeviceFailure (data access)
    0x808C_0000: Reason.SENSOR_FAILURE,  # BadSensorFailure (data access)
}
_FAULTS: Final[Mapping[int, Fault]] = {
    **{code: Fault(Quality.BAD, reason) for code, reason in (*_GOOD_BUT.items(), *_BAD_REASONS.items())},
    **{code: Fault(Quality.UNCERTAIN, reason) for code, reason in _UNCERTAIN_REASONS.items()},
}
_OTHER_UNCERTAIN: Final = Fault(Quality.UNCERTAIN, Reason.INACCURATE)
_OTHER_BAD: Final = Fault(Quality.BAD, Reason.REFUSED)
"""Severity 11 is reserved; what we do not understand is bad."""


def fault_of(code: int) -> Fault | None:
    """Return what a StatusCode says of a value; None if it is good.

    With UNCERTAIN there is a value beside it, with BAD there is none to be believed (OPC 10000-4, 7.39.1).

    Args:
        code: the StatusCode, 0 to 2**32 − 1.

    Raises:
        LocalProtocolError: if `code` is no unsigned 32-bit number.
    """
    if not 0 <= code <= MAX_CODE:
        raise LocalProtocolError(f"a StatusCode has 32 bits, {code} has not")
    known = _FAULTS.get(code & _CONDITION)
    if known is not None:
        return known
    severity = code >> _SEVERITY_SHIFT
    if severity == GOOD:
        return None
    return _OTHER_UNCERTAIN if severity == _UNCERTAIN else _OTHER_BAD


def has_overflowed(code: int) -> bool:
    """Tell whether the queue of a monitored item lost values before this one."""
    return code & _INFO_TYPE == _INFO_DATA_VALUE and bool(code & _OVERFLOW)
