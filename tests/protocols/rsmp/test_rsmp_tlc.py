"""Our tables of the traffic-light list against the published list itself, in each version."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from protocols.rsmp.sxl import Argument, ComponentType, Sxl, Type, wrong, wrong_set
from protocols.rsmp.tlc import DIFFERENCES, SXLS, security_level
from tests.shared_data import shared

VERSIONS = tuple(SXLS)
OURS = {
    # The list's patterns contradict its text, which knows "-" for what does not exist, or are PCRE.
    "^[a-hA-G0-9N-P]*$": "[a-hA-G0-9N-P-]*",
    "^[01]*$": "[01-]*",
    r"(^$)|(^(?<item>(\d{1,2})\-\d{1,2}-\d{1,2})(,\g<item>)*$)": SXLS["1.2.1"]
    .statuses["S0023"]
    .arguments[0]
    .pattern,
    r"^(\d{1,3}\-\d{1,3})(?:,(\d{1,3}\-\d{1,3}))*$": SXLS["1.2.1"].statuses["S0024"].arguments[0].pattern,
}
BY_TEXT = {
    "detectorlogicstatus",
    "inputstatus",
    "outputstatus",
    "extendedinputstatus",
    "extendedoutputstatus",
}
"""Strings of 0, 1 and "-" by the list's text; it gives no pattern."""

Published = Mapping[str, Any]


def published(version: str) -> dict[tuple[str, str], Published]:
    """Return every alarm, status and command of the published list, with the type of its component."""
    path = shared(f"rsmp/tlc/{version}/source/sxl.yaml", "the traffic-light list")
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        (section, code): {**entry, "of": kind}
        for kind, parts in document["objects"].items()
        for section in ("alarms", "statuses", "commands")
        for code, entry in (parts.get(section) or {}).items()
    }


def expected(name: str, entry: Published) -> Argument:
    kind = Type(entry["type"])
    return Argument(
        name,
        kind,
        entry.get("min"),
        entry.get("max"),
        tuple(str(value) for value in entry.get("values", ())),
        OURS[entry["pattern"]] if "pattern" in entry else "[01-]*" if name in BY_TEXT else "",
        entry.get("optional", False),
        tuple(expected(item, one) for item, one in entry.get("items", {}).items()),
    )


def arguments(entry: Published) -> tuple[Argument, ...]:
    return tuple(expected(name, one) for name, one in (entry.get("arguments") or {}).items())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_status_is_as_published(version: str) -> None:
    listed = {code: entry for (section, code), entry in published(version).items() if section == "statuses"}
    assert set(SXLS[version].statuses) == set(listed)
    for code, entry in listed.items():
        ours = SXLS[version].statuses[code]
        assert (code, ours.of, ours.arguments) == (code, ComponentType(entry["of"]), arguments(entry))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_command_is_as_published_and_needs_the_code_that_its_text_names(version: str) -> None:
    listed = {code: entry for (section, code), entry in published(version).items() if section == "commands"}
    assert set(SXLS[version].commands) == set(listed)
    for code, entry in listed.items():
        ours = SXLS[version].commands[code]
        assert (ours.order, ours.of) == (entry["command"], ComponentType(entry["of"]))
        assert (code, ours.arguments) == (code, arguments(entry))
        named = re.search(r"[Rr]equires security code (\d)", entry["description"])
        by_argument = next(
            (
                re.search(r"\d", one["description"])
                for name, one in entry["arguments"].items()
                if name == "securityCode"
            ),
            None,
        )
        found = named or by_argument
        assert ours.security == (int(found.group().split()[-1]) if found else 0), code


@pytest.mark.parametrize("version", VERSIONS)
def test_every_alarm_is_as_published(version: str) -> None:
    listed = {code: entry for (section, code), entry in published(version).items() if section == "alarms"}
    assert set(SXLS[version].alarms) == set(listed)
    for code, entry in listed.items():
        ours = SXLS[version].alarms[code]
        assert (ours.of, ours.priority, ours.category) == (
            ComponentType(entry["of"]),
            entry["priority"],
            entry["category"],
        )
        assert (code, ours.arguments) == (code, arguments(entry))


def test_the_versions_differ_where_it_is_said_and_nowhere_else() -> None:
    old, new = SXLS["1.1.0"], SXLS["1.2.1"]
    codes = {
        code for code in {*old.statuses, *new.statuses} if old.statuses.get(code) != new.statuses.get(code)
    }
    assert codes == set(DIFFERENCES)
    assert (old.commands, old.alarms) == (new.commands, new.alarms)


SXL: Sxl = SXLS["1.2.1"]


@pytest.mark.parametrize(
    ("code", "name", "good", "bad"),
    [
        ("S0001", "signalgroupstatus", "aAG09NP-", "z"),
        ("S0001", "stage", "999", "1000"),
        ("S0001", "cyclecounter", "0", "-1"),
        ("S0002", "detectorlogicstatus", "01-", "012"),
        ("S0007", "intersection", "0,255", "0,256"),
        ("S0007", "status", "True,False", "True,false"),
        ("S0007", "source", "forced,other", "forced,me"),
        ("S0013", "status", "0,3", "0,4"),
        ("S0014", "status", "255", "0"),
        ("S0014", "source", "calendar_clock", "calendar"),
        ("S0020", "controlmode", "control", "Control"),
        ("S0023", "status", "1-2-3,10-20-30", "1-2"),
        ("S0024", "status", "1-20,2-30", ""),
        ("S0091", "user", "2", "3"),
        ("S0095", "status", "anything", None),
        ("S0096", "month", "12", "0"),
        ("S0097", "timestamp", "2026-02-28T23:59:59.999Z", "2026-02-30T23:59:59.999Z"),
        ("S0098", "config", "QUJD", "QUJ"),
        ("S0205", "vehicles", "-1,65535", "-2"),
        ("S0033", "status", [], "[]"),
        ("S0035", "emergencyroutes", [{"id": "255"}], [{"id": "256"}]),
        ("S0035", "emergencyroutes", [{"id": "1"}], [{}]),
        ("S0005", "statusByIntersection", [{"intersection": "1", "startup": "True"}], [{"it": "1"}]),
    ],
)  # fmt: skip
def test_a_value_is_of_its_type_and_within_its_range(code: str, name: str, good: Any, bad: Any) -> None:  # noqa: ANN401
    argument = SXL.statuses[code].argument(name)
    assert argument is not None
    assert wrong(argument, good) is None
    assert name in str(wrong(argument, bad))


@pytest.mark.parametrize("value", ["1", "+1", "1.0", " 1", "1e2", "", "１", "9" * 11, "True"])
def test_a_whole_number_is_digits_and_nothing_else(value: str) -> None:
    argument = SXL.statuses["S0014"].argument("status")
    assert argument is not None
    assert (wrong(argument, value) is None) is (value == "1")


def test_a_list_has_a_bound() -> None:
    numbers, routes = SXL.statuses["S0205"].argument("vehicles"), SXL.statuses["S0035"].arguments[0]
    assert numbers is not None
    assert "more than" in str(wrong(numbers, ",".join(["1"] * 4097)))
    assert "more than" in str(wrong(routes, [{"id": "1"}] * 4097))


def test_a_set_of_arguments_is_complete_and_has_nothing_else() -> None:
    plan = SXL.commands["M0002"].arguments
    whole = {"status": "True", "securityCode": "1", "timeplan": "3"}
    assert wrong_set(plan, whole) is None
    assert wrong_set(plan, {**whole, "level": "1"}) == "level is not known here"
    assert wrong_set(plan, {"status": "True", "securityCode": "1"}) == "timeplan is missing"
    assert wrong_set(plan, {**whole, "timeplan": "256"}) == "timeplan is 256, not 1 to 255"


def test_the_security_code_of_a_command_is_that_of_its_level() -> None:
    assert security_level("M0002", {"securityCode": "x"}, SXL) == (2, "x")
    assert security_level("M0104", {"securityCode": "y"}, SXL) == (1, "y")
    assert security_level("M0022", {}, SXL) == (0, "")
    assert security_level("M0103", {"status": "Level1", "oldSecurityCode": "a"}, SXL) == (1, "a")
    assert security_level("M0103", {"status": "Level2", "oldSecurityCode": "b"}, SXL) == (2, "b")
