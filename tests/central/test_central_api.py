"""What the API answers, and how it says no."""

import asyncio
import base64
import json
import re
from datetime import datetime, timedelta

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.clock import moment
from protocols.backhaul.messages import AlarmEvent, CommandEvent, GapCause, GapEvent
from protocols.backhaul.signing import sign
from protocols.model.alarm import AlarmType
from protocols.model.command import CommandState
from protocols.model.device import StreamClass
from protocols.model.ids import CabinetId, CommandId, DeviceId, KeyId
from protocols.model.lighting import LightingPolicy, Place
from protocols.model.policy import Policy, PolicyKind
from protocols.model.reading import Fault, Quality, Reason
from tests.central.api_desk import Api
from tests.central.cabinet_double import LEVEL, START_MS, CabinetDouble, Message, meter, taken
from tests.central.problems import faulty, problem

LAMP = "cab-1-lamp-0"
HISTORY = f"/api/v1/devices/{LAMP}/points/dimming_level/history"
PROGRAM = {"id": "evening", "active_periods": [{"period": "astro", "level": 80}]}
CALENDAR = {"id": "year", "default_program": "evening"}
PLACE = {"latitude": 47.32, "longitude": 5.04, "timezone": "Europe/Paris"}


def at(offset_ms: int) -> str:
    return moment(START_MS + offset_ms).isoformat()


class TestCabinets:
    """Cabinets, with all that is known of them."""

    async def test_a_cabinet_shows_its_streams_versions_and_contact(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        cabinet.seal([taken(LAMP, 3)])
        await api.deliver(cabinet.hello(), cabinet.message(1))
        shown = await api.get("/api/v1/cabinets/cab-1")
        assert (shown["contact"], shown["agent_version"], shown["boot"]) == (
            "connected",
            "0.1.0",
            "cab-1-boot-1",
        )
        assert (shown["epoch"], shown["last_end"], shown["trusted_keys"]) == (7_001, "clean", ["centre"])
        marks = {one["stream"]: one["mark"] for one in shown["streams"]}
        assert marks == {"events": 0, "critical": 0, "ordinary": 1, "bulk": 0}

    async def test_lists_come_in_parts_that_miss_and_repeat_nothing(self, api: Api) -> None:
        for number in range(7):
            await api.deliver(CabinetDouble(f"cab-{number}").hello())
        items = await api.all("/api/v1/cabinets", limit=3)
        assert [one["id"] for one in items] == [f"cab-{n}" for n in range(7)]
        devices = await api.all("/api/v1/devices", limit=4)
        assert [one["id"] for one in devices] == sorted(
            f"cab-{n}-lamp-{m}" for n in range(7) for m in range(3)
        )

    async def test_devices_are_found_by_cabinet_kind_and_group(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        cabinet.inventory += (meter("cab-1-meter"),)
        await api.deliver(cabinet.hello(), CabinetDouble("cab-2").hello())
        assert len(await api.all("/api/v1/devices", cabinet="cab-1")) == 4
        assert [d["id"] for d in await api.all("/api/v1/devices", kind="meter")] == ["cab-1-meter"]
        assert len(await api.all("/api/v1/devices", group="street")) == 6
        (point,) = (await api.get("/api/v1/devices/cab-1-meter"))["points"]
        assert (point["name"], point["unit"], point["writable"]) == ("active_power", "W", False)


class TestReadings:
    """Latest values and history, gaps as gaps."""

    async def test_latest_values_keep_their_kind_quality_and_reason(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        silent = Fault(Quality.BAD, Reason.NO_ANSWER)
        cabinet.seal([taken(LAMP, True), taken(cabinet.lamp(1), silent), taken(cabinet.lamp(2), 7)])
        await api.deliver(cabinet.message(1))
        found = await api.all("/api/v1/cabinets/cab-1/latest", limit=2)
        assert [(one["value"], one["quality"], one["reason"]) for one in found] == [
            (True, "good", None),
            (None, "bad", "no_answer"),
            (7, "good", None),
        ]
        (one,) = await api.get(f"/api/v1/devices/{LAMP}/latest")
        assert (one["time"], one["clock"], one["stamped_by"]) == (
            "2026-02-02T02:40:00Z",
            "synchronised",
            "cabinet",
        )

    async def test_history_is_a_range_in_either_order(self, api: Api, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(LAMP, n, at_ms=1_000 * n) for n in range(10)])
        await api.deliver(cabinet.hello(), cabinet.message(1))
        some = await api.get(HISTORY, **{"from": at(3_000), "to": at(6_000)})
        assert [item["value"] for item in some["items"]] == [3, 4, 5, 6]
        assert some["unit"] == "%"
        newest = await api.all(HISTORY, order="desc", limit=3)
        assert [item["value"] for item in newest] == list(reversed(range(10)))

    async def test_paging_is_stable_while_readings_arrive(self, api: Api, cabinet: CabinetDouble) -> None:
        cabinet.seal([taken(LAMP, n, at_ms=7) for n in range(5)])
        await api.deliver(cabinet.message(1))
        first = await api.get(HISTORY, limit=3)
        cabinet.seal([taken(LAMP, 99, at_ms=1), taken(LAMP, 5, at_ms=8)])
        await api.deliver(cabinet.message(2))
        rest = await api.all(HISTORY, limit=3, cursor=first["next"])
        assert [item["value"] for item in [*first["items"], *rest]] == [0, 1, 2, 3, 4, 5]

    async def test_a_gap_stands_where_it_begins_among_the_readings(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        for n in range(5):
            cabinet.seal([taken(LAMP, n, at_ms=10_000 * n)])
        lost = GapEvent(StreamClass.ORDINARY, GapCause.CRASH, START_MS + 31_000, START_MS + 39_000, None)
        cabinet.seal_event(lost)
        await api.deliver(*cabinet.waiting())
        shown = await api.all(HISTORY, limit=2, to=at(45_000))
        assert [item.get("value", item["type"]) for item in shown] == [0, 1, 2, 3, "gap", 4]
        gap = shown[4]
        assert (gap["from"], gap["count"], gap["reported"]) == ("2026-02-02T02:40:31Z", None, True)

    async def test_what_was_shed_shows_as_a_gap_with_its_count(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        for n in range(4):
            cabinet.seal([taken(LAMP, n, at_ms=10_000 * n)])
        await api.deliver(cabinet.message(1))
        cabinet.shed(3)
        cabinet.seal_event(
            GapEvent(StreamClass.ORDINARY, GapCause.SHED, START_MS, START_MS + 9, 2, 2, 3, 7_001)
        )
        await api.deliver(*cabinet.waiting())
        shown = await api.get(HISTORY)
        assert [item.get("value", item["type"]) for item in shown["items"]] == [0, "gap", 3]
        assert (shown["items"][1]["cause"], shown["items"][1]["count"]) == ("shed", 2)
        assert (await api.get(HISTORY, **{"from": at(60_000)}))["items"] == []


class TestLighting:
    """From a program to a signed policy, over the API."""

    async def _draft(self, api: Api, **changes: object) -> httpx.Response:
        await api.http.put("/api/v1/control-programs/evening", json=PROGRAM)
        await api.http.put("/api/v1/calendars/year", json=CALENDAR)
        body = {"place": PLACE, "assignments": [{"calendar": "year", "groups": ["street"]}]} | changes
        return await api.http.put("/api/v1/cabinets/cab-1/lighting", json=body)

    async def test_documents_are_read_as_they_were_written(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        assert (await self._draft(api)).status_code == 200
        assert (await api.get("/api/v1/control-programs/evening"))["active_periods"][0]["level"] == 80
        assert [c["id"] for c in await api.all("/api/v1/calendars")] == ["year"]
        assert (await api.get("/api/v1/cabinets/cab-1/lighting"))["default_level"] == 100

    async def test_publishing_shows_the_desired_policy_as_pending(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await api.deliver(cabinet.hello())
        await self._draft(api)
        answer = await api.http.post("/api/v1/cabinets/cab-1/lighting/publish", json={"valid_for_s": 60})
        assert answer.status_code == 202
        (desired,) = answer.json()["desired"]
        assert (desired["status"], desired["version"], desired["key"]) == ("pending", 1, "centre")

    async def test_faults_of_a_draft_come_as_one_problem(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        await self._draft(api, assignments=[{"calendar": "year", "devices": ["ghost"], "groups": ["no"]}])
        answer = await api.http.post("/api/v1/cabinets/cab-1/lighting/publish")
        said = problem(answer, 422)
        assert len(said["errors"]) == 2  # type: ignore[arg-type]  # a list, as asserted

    async def test_an_envelope_signed_elsewhere_is_taken(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        key = Ed25519PrivateKey.generate()
        now_ms = api.central.clock.now().utc_ms
        content = LightingPolicy(Place(47.0, 5.0, "Europe/Paris"), (), (), ())
        body = Policy(
            CabinetId("cab-1"), PolicyKind.LIGHTING, 9, now_ms, now_ms + 60_000, KeyId("ministry"), content
        )
        signed = sign(body, key)
        envelope = {
            "body": signed.body.decode(),
            "key": "ministry",
            "signature": base64.b64encode(signed.signature).decode(),
        }
        answer = await api.http.post("/api/v1/cabinets/cab-1/policies", json=envelope)
        assert (answer.status_code, answer.json()["desired"][0]["version"]) == (202, 9)
        for wrong in ({"signature": "???"}, {"signature": "QUJD"}):
            problem(await api.http.post("/api/v1/cabinets/cab-1/policies", json=envelope | wrong), 422)

    async def test_what_is_in_use_is_not_deleted(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        await self._draft(api)
        problem(await api.http.delete("/api/v1/control-programs/evening"), 409)
        problem(await api.http.delete("/api/v1/calendars/year"), 409)
        await self._draft(api, assignments=[])
        assert (await api.http.delete("/api/v1/calendars/year")).status_code == 204
        assert (await api.http.delete("/api/v1/control-programs/evening")).status_code == 204
        problem(await api.http.delete("/api/v1/control-programs/evening"), 404)

    async def test_path_and_body_must_name_the_same(self, api: Api) -> None:
        problem(await api.http.put("/api/v1/control-programs/other", json=PROGRAM), 422)

    async def test_a_preview_at_a_moment_and_through_a_while(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        await self._draft(api)
        path = "/api/v1/cabinets/cab-1/lighting/preview"
        night = await api.get(path, at="2026-01-10T22:00:00Z")
        assert {lamp["level"] for lamp in night["lamps"]} == {80}
        day = await api.get(path, **{"from": "2026-01-10T00:00:00Z", "to": "2026-01-11T00:00:00Z"})
        assert [step["level"] for step in day["schedules"][0]["steps"]] == [80, 0, 80]
        for wrong in (
            {"from": "2026-01-10T00:00:00Z"},
            {"from": at(0), "to": at(-1)},
            {"at": "2026-01-10T22:00:00"},
        ):
            problem(await api.http.get(path, params=wrong), 400)


class TestCommands:
    """Commands, overrides and alarms, over the API."""

    async def test_a_command_is_new_once_and_known_afterwards(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        now = datetime.fromisoformat((await api.http.get("/api/v1/health")).json()["civil_time"])
        later = (now + timedelta(hours=1)).isoformat()
        body = {"id": "c-1", "device": LAMP, "point": "dimming_level", "value": 5, "until": later}
        answers = [await api.http.post("/api/v1/commands", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 200]
        assert answers[0].json()["id"] == answers[1].json()["id"] == "c-1"
        problem(await api.http.post("/api/v1/commands", json=body | {"value": 6}), 409)
        assert (await api.get("/api/v1/commands/c-1"))["state"] == "queued"

    async def test_commands_are_listed_newest_first_and_by_state(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await api.deliver(cabinet.hello())
        for n in range(3):
            cabinet.seal_event(
                CommandEvent(
                    CommandId(f"t-{n}"),
                    CommandState.VERIFIED if n else CommandState.FAILED,
                    "",
                    START_MS + n,
                    DeviceId(LAMP),
                    LEVEL,
                    n,
                    "technician:root",
                )
            )
        await api.deliver(*cabinet.waiting())
        assert [c["id"] for c in await api.all("/api/v1/commands", limit=1)] == ["t-2", "t-1", "t-0"]
        (failed,) = await api.all("/api/v1/commands", state="failed")
        assert (failed["id"], failed["ours"], failed["issuer"]) == ("t-0", False, "technician:root")

    async def test_an_override_shows_each_lamp_and_is_released(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await api.deliver(cabinet.hello())
        answer = await api.http.post(
            "/api/v1/overrides", json={"level": 90, "group": "street", "duration_s": 600, "issuer": "anna"}
        )
        assert (answer.status_code, answer.json()["lamps"], answer.json()["states"]) == (
            202,
            3,
            {"queued": 3},
        )
        path = f"/api/v1/overrides/{answer.json()['id']}"
        assert [c["device"] for c in (await api.get(path))["commands"]] == [d.id for d in cabinet.inventory]
        released = await api.http.delete(path, params={"issuer": "anna"})
        assert (released.status_code, released.json()["released"] is not None) == (202, True)
        (listed,) = await api.all("/api/v1/overrides")
        assert (listed["lamps"], listed["commands"]) == (3, [])

    async def test_an_alarm_is_acknowledged_in_one_name(self, api: Api, cabinet: CabinetDouble) -> None:
        cabinet.seal_event(AlarmEvent(DeviceId(LAMP), AlarmType.SUPPLY_LOSS, START_MS, None, "dark"))
        await api.deliver(*cabinet.waiting())
        (alarm,) = await api.all("/api/v1/alarms", active="true", cabinet="cab-1")
        path = f"/api/v1/alarms/{alarm['id']}"
        for _ in range(2):
            answer = await api.http.post(f"{path}/acknowledge", json={"by": "anna"})
            assert (answer.status_code, answer.json()["acknowledged_by"]) == (200, "anna")
        problem(await api.http.post(f"{path}/acknowledge", json={"by": "bert"}), 409)
        assert await api.all("/api/v1/alarms", active="false") == []


NOT_THERE = [
    "/nothing",
    "/api/v1/cabinets/none",
    "/api/v1/cabinets/none/latest",
    "/api/v1/cabinets/none/policies",
    "/api/v1/cabinets/none/lighting",
    "/api/v1/devices/none",
    "/api/v1/devices/none/latest",
    "/api/v1/devices/none/points/x/history",
    "/api/v1/commands/none",
    "/api/v1/overrides/none",
    "/api/v1/alarms/77",
    "/api/v1/alarms/x",
    "/api/v1/control-programs/none",
    "/api/v1/calendars/none",
    "/assets/none.js",
    "/assets/..%2f..%2fpyproject.toml",
]


NOT_UNDERSTOOD = [
    ("/api/v1/cabinets", {"limit": "0"}),
    ("/api/v1/cabinets", {"limit": "1001"}),
    ("/api/v1/cabinets", {"limit": "many"}),
    ("/api/v1/cabinets", {"cursor": "???"}),
    ("/api/v1/cabinets", {"cursor": "W10"}),
    ("/api/v1/devices", {"kind": "unicorn"}),
    (HISTORY, {"from": "yesterday"}),
    (HISTORY, {"from": "2026-01-01T00:00:00"}),
    (HISTORY, {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
    (HISTORY, {"order": "random"}),
    ("/api/v1/events", {"kinds": "alarm,gossip"}),
]


NOT_A_COMMAND = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"device": "x", "point": "y", "value": 1, "surprise": 1}',
    b'{"device": "x", "point": "y"}',
    b'{"device": "UPPER", "point": "y", "value": 1}',
    b'{"device": "x\\n", "point": "y", "value": 1}',
    b'{"device": "x", "point": "y", "value": {}}',
    b'{"device": "x", "point": "y", "value": 1, "ramp_s": 91}',
    b'{"device": "x", "point": "y", "value": 1, "expires_at": "2030-01-01T00:00:00"}',
]


class TestProblems:
    """Everything that goes wrong is a problem document."""

    async def test_what_is_not_there_is_404(self, api: Api) -> None:
        for path in NOT_THERE:
            said = problem(await api.http.get(path), 404)
            assert said["instance"] == httpx.URL(path).path

    async def test_a_wrong_method_is_405_and_says_which_are_right(self, api: Api) -> None:
        answer = await api.http.delete("/api/v1/health")
        problem(answer, 405)
        assert "GET" in answer.headers["allow"]

    async def test_a_question_that_cannot_be_understood_is_400(self, api: Api) -> None:
        for path, query in NOT_UNDERSTOOD:
            problem(await api.http.get(path, params=query), 400)

    async def test_a_body_that_cannot_be_understood_is_400(self, api: Api) -> None:
        for body in NOT_A_COMMAND:
            answer = await api.http.post(
                "/api/v1/commands", content=body, headers={"content-type": "application/json"}
            )
            problem(answer, 400)

    async def test_every_fault_of_a_body_is_named(self, api: Api) -> None:
        body = {"level": 300, "duration_s": -5, "until": "tomorrow", "devices": ["lamp-1", 7], "x": 1}
        said = problem(await api.http.post("/api/v1/overrides", json=body), 400)
        assert faulty(said) == ["devices[1]", "duration_s", "level", "until", "x"]

    async def test_a_text_is_no_number(self, api: Api) -> None:
        said = problem(await api.http.post("/api/v1/overrides", json={"level": "30"}), 400)
        assert faulty(said) == ["level"]

    async def test_a_body_that_is_missing_or_bottomless_is_400(self, api: Api) -> None:
        for body in (b"", b"[" * 100_000):
            problem(await api.http.post("/api/v1/overrides", content=body), 400)

    async def test_a_body_that_is_too_large_is_413(self, api: Api) -> None:
        body = json.dumps({"device": "x" * (1 << 20), "point": "y", "value": 1}).encode()
        answer = await api.http.post(
            "/api/v1/commands", content=body, headers={"content-type": "application/json"}
        )
        problem(answer, 413)

    async def test_another_sites_page_cannot_change_anything(self, api: Api) -> None:
        path = "/api/v1/control-programs/evening"
        for origin in ("http://evil.example", "null", "http://[", "http://localhost.evil.example"):
            problem(await api.http.put(path, json=PROGRAM, headers={"origin": origin}), 403)
        assert (
            await api.http.put(path, json=PROGRAM, headers={"origin": "http://localhost"})
        ).status_code == 200

    async def test_a_page_whose_name_leads_here_is_refused(self, api: Api) -> None:
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"):
            problem(await api.http.get("/api/v1/health", headers={"host": host}), 403)
        for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080"):
            assert (await api.http.get("/api/v1/health", headers={"host": host})).status_code == 200

    async def test_a_bug_is_500_and_says_nothing_of_our_inside(
        self, api: Api, capsys: pytest.CaptureFixture[str]
    ) -> None:
        await api.central.centre.change(lambda tx: tx.db.execute("DROP TABLE alarm"))
        said = problem(await api.http.get("/api/v1/alarms/1"), 503)
        assert "alarm" not in json.dumps(said["title"])
        await api.central.centre.change(
            lambda tx: tx.db.execute("INSERT INTO control_program VALUES ('broken', '{', 0)")
        )
        said = problem(await api.http.get("/api/v1/control-programs/broken"), 500)
        assert said["detail"] == "this end failed; the log says how"
        assert "DecodeError" in capsys.readouterr().out

    async def test_a_store_that_takes_no_writes_is_503(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        await asyncio.to_thread(api.central.writer.stop)
        answer = await api.http.put("/api/v1/control-programs/evening", json=PROGRAM)
        problem(answer, 503)
        assert answer.headers["retry-after"] == "2"


async def test_health_counts_what_came_and_what_was_refused(api: Api, cabinet: CabinetDouble) -> None:
    cabinet.seal([taken(LAMP, n) for n in range(4)])
    await api.deliver(cabinet.hello(), cabinet.message(1), cabinet.message(1))
    with pytest.raises(Exception, match="not a hello"):
        await api.deliver(Message(cabinet.hello().topic, b"\xc1"))
    health = await api.get("/api/v1/health")
    assert (health["ok"], health["broker"]["connected"]) == (False, False)
    assert {name: health["ingest"][name] for name in ("batches", "readings", "repeated", "refused")} == {
        "batches": 1,
        "readings": 4,
        "repeated": 1,
        "refused": {"damaged": 1},
    }
    assert health["store"]["taking_writes"] is True
    assert health["signing_key"] == "centre"


class TestPages:
    """The documentation is served whole: nothing is fetched from outside."""

    async def test_the_page_and_all_that_it_names_are_served_from_here(self, api: Api) -> None:
        page = await api.http.get("/schema")
        assert page.headers["content-type"].startswith("text/html")
        named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert all(name.startswith(("/", "data:,")) and not name.startswith("//") for name in named)
        assert "http" not in page.text
        for name in (name for name in named if name.startswith("/")):
            asset = await api.http.get(name)
            assert (asset.status_code, len(asset.content) > 100) == (200, True)

    async def test_the_start_script_reads_the_schema_from_here_and_asks_no_validator(self, api: Api) -> None:
        script = (await api.http.get("/assets/start.js")).text
        assert 'url: "/schema/openapi.json"' in script
        assert "validatorUrl: null" in script

    async def test_the_browser_is_told_to_load_nothing_from_elsewhere(self, api: Api) -> None:
        policy = (await api.http.get("/schema")).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "http" not in policy

    async def test_the_root_leads_there(self, api: Api) -> None:
        answer = await api.http.get("/")
        assert (answer.status_code, answer.headers["location"]) == (302, "/schema")

    async def test_the_schema_names_every_path_and_the_problem_documents(self, api: Api) -> None:
        schema = await api.get("/schema/openapi.json")
        assert "/api/v1/devices/{device}/points/{point}/history" in schema["paths"]
        assert all(path.startswith("/api/v1/") for path in schema["paths"])
        assert msgspec.json.encode(schema)
