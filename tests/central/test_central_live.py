"""The whole aggregator as a process, on real brokers, with a cabinet on the wire."""

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from central.keys import load, make
from protocols.backhaul.messages import AlarmEvent, CommandEvent, PolicyEvent
from protocols.backhaul.signing import TrustedKey, is_signed_by, policy_hash
from protocols.model.alarm import AlarmType
from protocols.model.command import CommandState
from protocols.model.ids import DeviceId
from protocols.model.lighting import Lamp
from protocols.model.policy import Limits, Policy, PolicyKind
from protocols.rules.acceptance import Standing, judge
from tests.central.cabinet_double import LEVEL, START_MS, CabinetDouble, taken
from tests.central.desk import raw
from tests.central.junctions import TRUNK, WEST, junction_cabinet, passage
from tests.central.live import Aggregator, LiveCabinet, aggregator, embedded_broker, free_port, mosquitto

PROGRAM = {
    "id": "evening",
    "active_periods": [{"period": "astro", "level": 100}],
    "fixed_time_controls": [{"time": "22:00", "level": 50}],
}
CALENDAR = {"id": "all-year", "default_program": "evening"}
LIGHTING = {
    "place": {"latitude": 47.32, "longitude": 5.04, "timezone": "Europe/Paris"},
    "assignments": [{"calendar": "all-year", "groups": ["street"]}],
}


@pytest.fixture(params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Yield a broker's URL and the MQTT version to speak to it."""
    if request.param == "mosquitto":
        with mosquitto(tmp_path, free_port()) as url:
            yield url, "5"
    else:
        with embedded_broker(free_port()) as url:
            yield url, "3.1.1"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return make(tmp_path / "keys", "centre")


@pytest.fixture
def centre(broker: tuple[str, str], tmp_path: Path, key_file: Path) -> Iterator[Aggregator]:
    url, version = broker
    with aggregator(tmp_path, url, "--mqtt", version, "--signing-key", str(key_file)) as running:
        yield running


@pytest.fixture
def wired(broker: tuple[str, str], centre: Aggregator) -> Iterator[LiveCabinet]:
    url, version = broker
    assert url == centre.ready.broker
    cabinet = LiveCabinet(CabinetDouble(), url, mqtt5=version == "5")
    assert cabinet.wait(lambda: cabinet.acks)
    yield cabinet
    cabinet.close()


def test_a_street_end_to_end(centre: Aggregator, wired: LiveCabinet, key_file: Path) -> None:
    """Readings up, a schedule down and in force, a command and its answer, an alarm, and the cabinet gone."""
    cabinet, http = wired.cabinet, centre.http
    for minute in range(5):
        cabinet.seal([taken(cabinet.lamp(), float(minute), at_ms=60_000 * minute)])
    wired.drain()
    latest = http.get(f"/api/v1/devices/{cabinet.lamp()}/latest").json()
    assert [(one["point"], one["value"], one["quality"]) for one in latest] == [
        ("dimming_level", 4.0, "good")
    ]
    history = http.get(f"/api/v1/devices/{cabinet.lamp()}/points/dimming_level/history").json()
    assert [item["value"] for item in history["items"]] == [0, 1, 2, 3, 4]
    assert {item["type"] for item in history["items"]} == {"reading"}

    http.put("/api/v1/control-programs/evening", json=PROGRAM).raise_for_status()
    http.put("/api/v1/calendars/all-year", json=CALENDAR).raise_for_status()
    http.put("/api/v1/cabinets/cab-1/lighting", json=LIGHTING).raise_for_status()
    assert http.post("/api/v1/cabinets/cab-1/lighting/publish").status_code == 202
    assert wired.wait(lambda: wired.policies)
    signed = wired.policies[0]
    policy = judge(signed, _standing(cabinet, key_file), centre_now(centre))
    assert isinstance(policy, Policy)
    assert policy.lighting is not None
    assert (policy.version, policy.lighting.programs[0].id) == (1, "evening")
    cabinet.seal_event(
        PolicyEvent("lighting", 1, policy_hash(signed.body), accepted=True, reasons=(), at_ms=START_MS)
    )
    wired.drain()
    (desired,) = http.get("/api/v1/cabinets/cab-1/policies").json()["desired"]
    assert (desired["status"], desired["version"]) == ("in_force", 1)

    until = (datetime.fromisoformat(str(centre.health()["time"])) + timedelta(hours=1)).isoformat()
    wanted = {"device": cabinet.lamp(), "point": "dimming_level", "value": 30, "id": "op-1", "until": until}
    assert http.post("/api/v1/commands", json=wanted).status_code == 202
    assert http.post("/api/v1/commands", json=wanted).status_code == 200
    assert wired.wait(lambda: wired.commands)
    assert (wired.commands[0].id, wired.commands[0].value) == ("op-1", 30)
    command = wired.commands[0]
    cabinet.seal_event(
        CommandEvent(
            command.id, CommandState.VERIFIED, "", START_MS, command.device, LEVEL, 30, command.issuer
        ),
        AlarmEvent(DeviceId(cabinet.lamp(1)), AlarmType.LAMP_FAILURE, START_MS, None, "no light"),
    )
    wired.drain()
    assert http.get("/api/v1/commands/op-1").json()["state"] == "verified"
    (alarm,) = http.get("/api/v1/alarms?active=true").json()["items"]
    assert (alarm["type"], alarm["severity"], alarm["active"]) == ("lamp_failure", "low", True)

    assert http.get("/api/v1/cabinets/cab-1").json()["contact"] == "connected"
    wired.cut()
    centre.wait(lambda: http.get("/api/v1/cabinets/cab-1").json()["contact"] == "offline")


def centre_now(centre: Aggregator) -> int:
    """Return the aggregator's time as UTC milliseconds."""
    return round(datetime.fromisoformat(str(centre.health()["time"])).timestamp() * 1000)


def _standing(cabinet: CabinetDouble, key_file: Path) -> Standing:
    lamps = [Lamp(d.id, d.line, d.address, d.groups) for d in cabinet.inventory]
    trusted: list[TrustedKey] = [load(key_file).trusted()]
    return Standing(cabinet.id, trusted, {PolicyKind.LIGHTING: 0}, lamps, Limits())


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_nothing_is_lost_or_doubled_when_the_aggregator_is_killed_in_the_middle(
    centre: Aggregator, wired: LiveCabinet
) -> None:
    cabinet = wired.cabinet
    expected = list(range(80))
    for number in expected:
        cabinet.seal([taken(cabinet.lamp(), number, at_ms=number)])
        if number % 40 == 20:
            wired.send(cabinet.waiting())
            wired.wait(lambda: wired.acks, timeout_s=1)
            centre.kill()
            wired.send(cabinet.waiting())
            centre.start()
    wired.drain()
    with closing(raw(centre.db)) as db:
        stored = db.execute("SELECT value FROM reading ORDER BY batch_id, idx").fetchall()
    assert [value for (value,) in stored] == expected


@pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)
def test_a_junction_end_to_end(centre: Aggregator, broker: tuple[str, str], key_file: Path) -> None:
    """Rules down under a lease and renewed, a bus's request up in two epochs, figures, a plan commanded."""
    http, cabinet = centre.http, junction_cabinet()
    wired = LiveCabinet(cabinet, broker[0], mqtt5=True)
    try:
        assert wired.wait(lambda: wired.acks)
        draft = msgspec.json.encode({"approaches": [WEST], "rules": [TRUNK]})
        http.put("/api/v1/cabinets/cab-1/priority", content=draft).raise_for_status()
        published = http.post("/api/v1/cabinets/cab-1/priority/publish", json={"lease_s": 60, "renew": True})
        assert published.status_code == 202
        assert wired.wait(lambda: wired.policies)
        signed = wired.policies[0]
        assert is_signed_by(signed, load(key_file).trusted())
        accepted = PolicyEvent("priority", 1, policy_hash(signed.body), True, (), START_MS)
        cabinet.seal_event(accepted)
        wired.drain()
        (desired,) = http.get("/api/v1/cabinets/cab-1/policies").json()["desired"]
        assert (desired["kind"], desired["status"]) == ("priority", "in_force")
        summary = http.get("/api/v1/cabinets").json()["items"][0]
        assert summary["priority_until"] == desired["lease_until"]

        cabinet.seal_event(*passage("r-1")[:3])
        wired.drain()
        centre.kill()
        centre.start()
        cabinet.seal_event(*passage("r-1")[1:], *passage("r-1"))
        wired.drain()
        shown = centre.http.get("/api/v1/priority-requests/cab-1/r-1").json()
        assert (shown["state"], shown["wait_s"], len(shown["steps"])) == ("completed", 8.0, 4)
        days = {"from": "2026-02-01T00:00:00Z", "to": "2026-02-28T00:00:00Z"}
        (figures,) = centre.http.get("/api/v1/priority-figures", params=days).json()["items"]
        assert (figures["granted"], figures["green_seconds_gained"]) == (1, 12)

        wanted = {"device": "cab-1-junction", "point": "time_plan", "value": 3}
        assert centre.http.post("/api/v1/commands", json=wanted).status_code == 202
        assert wired.wait(lambda: wired.commands)
        assert (wired.commands[0].point, wired.commands[0].value) == ("time_plan", 3)
    finally:
        wired.close()
