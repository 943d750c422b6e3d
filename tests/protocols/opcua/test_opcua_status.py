"""StatusCodes against the OPC Foundation's own table, which asyncua carries, and over all 32 bits."""

import pytest
from asyncua import ua
from hypothesis import given
from hypothesis.strategies import integers, sampled_from

from protocols.errors import LocalProtocolError
from protocols.model.reading import Fault, Quality, Reason
from protocols.opcua.status import _FAULTS, fault_of, has_overflowed

QUALITY = {0: None, 1: Quality.UNCERTAIN, 2: Quality.BAD, 3: Quality.BAD}
CODES = integers(0, 0xFFFF_FFFF)
NAMED = {name: code for name, code in vars(ua.StatusCodes).items() if isinstance(code, int)}


@pytest.mark.parametrize(
    ("name", "quality", "reason"),
    [
        ("GoodNoData", Quality.BAD, Reason.NOT_AVAILABLE),
        ("UncertainLastUsableValue", Quality.UNCERTAIN, Reason.STALE),
        ("UncertainNoCommunicationLastUsableValue", Quality.UNCERTAIN, Reason.STALE),
        ("UncertainSubstituteValue", Quality.UNCERTAIN, Reason.STALE),
        ("UncertainInitialValue", Quality.UNCERTAIN, Reason.STALE),
        ("UncertainSensorNotAccurate", Quality.UNCERTAIN, Reason.INACCURATE),
        ("UncertainEngineeringUnitsExceeded", Quality.UNCERTAIN, Reason.OUT_OF_RANGE),
        ("UncertainSubNormal", Quality.UNCERTAIN, Reason.INACCURATE),
        ("UncertainDataSubNormal", Quality.UNCERTAIN, Reason.INACCURATE),
        ("UncertainSimulatedValue", Quality.UNCERTAIN, Reason.INACCURATE),
        ("BadSensorFailure", Quality.BAD, Reason.SENSOR_FAILURE),
        ("BadDeviceFailure", Quality.BAD, Reason.SENSOR_FAILURE),
        ("BadNodeIdUnknown", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadNodeIdInvalid", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadAttributeIdInvalid", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadWaitingForInitialData", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadConfigurationError", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadOutOfService", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadNotFound", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadNoMatch", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadNoData", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadDataLost", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadDataUnavailable", Quality.BAD, Reason.NOT_AVAILABLE),
        ("BadUserAccessDenied", Quality.BAD, Reason.REFUSED),
        ("BadNotReadable", Quality.BAD, Reason.REFUSED),
        ("BadNotWritable", Quality.BAD, Reason.REFUSED),
        ("BadSecurityModeInsufficient", Quality.BAD, Reason.REFUSED),
        ("BadInternalError", Quality.BAD, Reason.REFUSED),
        ("BadOutOfRange", Quality.BAD, Reason.OUT_OF_RANGE),
        ("BadNoCommunication", Quality.BAD, Reason.NO_ANSWER),
        ("BadCommunicationError", Quality.BAD, Reason.NO_ANSWER),
        ("BadTimeout", Quality.BAD, Reason.NO_ANSWER),
        ("BadRequestTimeout", Quality.BAD, Reason.NO_ANSWER),
        ("BadNotConnected", Quality.BAD, Reason.NO_ANSWER),
        ("BadEncodingError", Quality.BAD, Reason.GARBLED),
        ("BadDecodingError", Quality.BAD, Reason.GARBLED),
        ("BadTypeMismatch", Quality.BAD, Reason.GARBLED),
        ("BadShutdown", Quality.BAD, Reason.LINE_DOWN),
        ("BadServerHalted", Quality.BAD, Reason.LINE_DOWN),
    ],
)
def test_each_condition_has_the_reason_of_its_name(name: str, quality: Quality, reason: Reason) -> None:
    """OPC 10000-6, A.2 gives the number for the name."""
    assert fault_of(NAMED[name]) == Fault(quality, reason)


def test_every_condition_listed_here_is_one_of_the_standard() -> None:
    assert set(_FAULTS) <= set(NAMED.values())


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_condition_of_the_standard_has_the_quality_of_its_prefix(name: str) -> None:
    fault = fault_of(NAMED[name])
    if name.startswith("Bad"):
        assert fault is not None
        assert fault.quality is Quality.BAD
    elif name.startswith("Uncertain"):
        assert fault is not None
        assert fault.quality is Quality.UNCERTAIN
    elif name != "GoodNoData":
        assert fault is None


@given(CODES)
def test_any_code_is_judged_at_least_by_its_severity(code: int) -> None:
    """OPC 10000-4, 7.39.1: clients shall always check; bad results shall never be used."""
    fault = fault_of(code)
    if code & 0xFFFF_0000 == NAMED["GoodNoData"]:
        assert fault == Fault(Quality.BAD, Reason.NOT_AVAILABLE)
    else:
        assert (None if fault is None else fault.quality) == QUALITY[code >> 30]


@given(CODES, integers(0, 0xFFFF))
def test_flags_change_nothing_about_what_a_code_means(code: int, flags: int) -> None:
    assert fault_of(code) == fault_of(code & 0xFFFF_0000 | flags)


@pytest.mark.parametrize("code", [-1, 1 << 32])
def test_what_has_not_32_bits_is_no_code(code: int) -> None:
    with pytest.raises(LocalProtocolError):
        fault_of(code)


@given(CODES)
def test_only_the_flags_of_a_data_value_tell_of_an_overflow(code: int) -> None:
    assert has_overflowed(code) == (code & 0x0C00 == 0x0400 and code & 0x80 != 0)


@given(sampled_from(sorted(NAMED.values())))
def test_an_overflow_can_come_with_any_condition(code: int) -> None:
    assert has_overflowed(code | 0x0480)
    assert not has_overflowed(code | 0x0400)
    assert not has_overflowed(code | 0x0080)
