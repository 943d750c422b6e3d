"""Priority over the API, and devices of every kind alike."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from itertools import count
from statistics import median

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from central import figures
from central.api.live import _kinds
from central.effects import ChangeKind
from central.store.writer import Tx
from protocols.backhaul.messages import AlarmEvent, PriorityEvent, Source
from protocols.model.alarm import SEVERITY, AlarmType
from protocols.model.device import Device, Kind, Point, StreamClass
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.priority import RequestState
from protocols.model.reading import Fault, Quality, Reason, sample
from tests.central.api_desk import Api, Json
from tests.central.cabinet_double import START_MS, CabinetDouble
from tests.central.desk import Desk
from tests.central.junctions import JUNCTION, TRUNK, WEST, junction_cabinet, passage, step
from tests.central.problems import faulty, problem

S = RequestState
DAY_S = 86_400
PRIORITY = "/api/v1/cabinets/cab-1/priority"
DRAFT = msgspec.json.decode(msgspec.json.encode({"approaches": [WEST], "rules": [TRUNK]}))
FEBRUARY = {"from": "2026-02-01T00:00:00Z", "to": "2026-02-28T00:00:00Z"}


@pytest.fixture
def cabinet() -> CabinetDouble:
    return junction_cabinet()


async def tell(api: Api, cabinet: CabinetDouble, *steps: PriorityEvent) -> None:
    await api.deliver(cabinet.message(cabinet.seal_event(*steps), StreamClass.EVENTS))


class TestPolicy:
    """From a draft to a signed policy under a lease."""

    async def test_a_draft_is_read_as_it_was_written(self, api: Api, cabinet: CabinetDouble) -> None:
        problem(await api.http.put(PRIORITY, json=DRAFT), 404)
        await api.deliver(cabinet.hello())
        problem(await api.http.get(PRIORITY), 404)
        assert (await api.http.put(PRIORITY, json=DRAFT)).status_code == 200
        assert await api.get(PRIORITY) == DRAFT | {"stale_position_s": 5.0}

    async def test_publishing_shows_the_lease(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        await api.http.put(PRIORITY, json=DRAFT)
        answer = await api.http.post(f"{PRIORITY}/publish", json={"lease_s": 86_400, "renew": True})
        assert answer.status_code == 202
        (desired,) = answer.json()["desired"]
        assert (desired["kind"], desired["status"], desired["version"]) == ("priority", "pending", 1)
        created, until, renews = (
            datetime.fromisoformat(desired[name]) for name in ("created", "lease_until", "renews")
        )
        assert ((until - created).total_seconds(), (renews - created).total_seconds()) == (86_400, 43_200)
        (again,) = (await api.http.post(f"{PRIORITY}/publish")).json()["desired"]
        assert (again["version"], again["renews"]) == (2, None)

    async def test_a_lease_that_is_due_is_renewed_by_the_running_aggregator(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await api.deliver(cabinet.hello())
        await api.http.put(PRIORITY, json=DRAFT)
        await api.http.post(f"{PRIORITY}/publish", json={"renew": True})

        def make_due(tx: Tx) -> None:
            tx.db.execute("UPDATE policy SET renew_ms = ?", (tx.now_ms,))
            tx.effects.due = True

        await api.central.centre.change(make_due)
        (desired,) = (await api.get("/api/v1/cabinets/cab-1/policies"))["desired"]
        assert (desired["version"], desired["renews"] is not None) == (2, True)

    async def test_the_example_of_the_documentation_is_accepted(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await api.deliver(cabinet.hello())
        schema = await api.get("/schema/openapi.json")
        body = schema["paths"]["/api/v1/cabinets/{cabinet}/priority"]["put"]["requestBody"]
        (example,) = body["content"]["application/json"]["schema"]["examples"]
        assert (await api.http.put(PRIORITY, json=example)).status_code == 200

    async def test_nothing_drafted_is_409(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        problem(await api.http.post(f"{PRIORITY}/publish"), 409)

    async def test_every_fault_of_a_draft_is_named(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        wrong = {
            "approaches": [DRAFT["approaches"][0] | {"path": [], "corridor_m": 900}],
            "rules": [DRAFT["rules"][0] | {"level": 15, "vehicle_types": ["spaceship"]}],
            "surprise": 1,
        }
        said = problem(await api.http.put(PRIORITY, json=wrong), 400)
        assert faulty(said) == [
            "approaches[0].corridor_m",
            "approaches[0].path",
            "rules[0].level",
            "rules[0].vehicle_types[0]",
            "surprise",
        ]

    @pytest.mark.parametrize(
        "terms", [{"lease_s": 59}, {"lease_s": 2_678_401}, {"lease_until": "2030-01-01T00:00:00"}, {"x": 1}]
    )
    async def test_terms_beyond_bounds_are_400(
        self, api: Api, cabinet: CabinetDouble, terms: dict[str, object]
    ) -> None:
        await api.deliver(cabinet.hello())
        problem(await api.http.post(f"{PRIORITY}/publish", json=terms), 400)


class TestRequests:
    """What became of each request."""

    async def _street(self, api: Api, cabinet: CabinetDouble) -> None:
        await api.deliver(cabinet.hello())
        await tell(
            api, cabinet, *passage("r-1"), *passage("r-2", 60, rule="tram", controller_ms=START_MS + 5)
        )
        await tell(api, cabinet, step(None, 120, request="r-3", reason="the lease is over"))
        await tell(api, cabinet, step(S.REJECTED, 180, request="r-4"), step(S.ACTIVATED, 181, request="r-4"))

    async def test_those_that_a_controller_still_has_are_found(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        path = "/api/v1/priority-requests"
        await self._street(api, cabinet)
        await tell(api, cabinet, step(S.QUEUED, 240, request="r-5"), step(S.QUEUED, 241, request="r-6"))
        await tell(api, cabinet, step(S.QUEUED, 242, request="r-5", reason="the line was cut", over=True))
        assert [one["id"] for one in await api.all(path, asked="true", over="false")] == ["r-6"]
        assert [one["id"] for one in await api.all(path, asked="false")] == ["r-3"]
        assert [one["id"] for one in await api.all(path, over="true")] == ["r-5", "r-4", "r-2", "r-1"]
        shown = await api.get(f"{path}/cab-1/r-5")
        assert (shown["state"], shown["over"]) == ("queued", True)
        assert [one["over"] for one in shown["steps"]] == [False, True]

    async def test_they_are_listed_newest_first_in_parts_and_found_by_what_they_are(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await self._street(api, cabinet)
        path = "/api/v1/priority-requests"

        async def found(**query: object) -> list[str]:
            return [one["id"] for one in await api.all(path, limit=1, **query)]

        assert await found() == ["r-4", "r-3", "r-2", "r-1"]
        assert await found(cabinet="cab-1", junction=JUNCTION, rule="tram") == ["r-2"]
        assert await found(state="completed") == ["r-2", "r-1"]
        assert await found(contradictory="true") == ["r-4"]
        assert await found(contradictory="false", state="rejected") == []
        assert await found(junction="elsewhere") == []
        assert await found(**{"from": "2026-02-02T02:41:00Z", "to": "2026-02-02T02:42:00Z"}) == ["r-3", "r-2"]

    async def test_a_request_is_shown_with_its_steps(self, api: Api, cabinet: CabinetDouble) -> None:
        await self._street(api, cabinet)
        shown = await api.get("/api/v1/priority-requests/cab-1/r-2")
        assert (shown["state"], shown["wait_s"], shown["vehicle"]) == ("completed", 8.0, "v-83a1")
        assert (shown["extension_s"], shown["reduction_s"], shown["shadow"]) == (9, 3, False)
        assert [one["state"] for one in shown["steps"]] == ["received", "queued", "activated", "completed"]
        assert shown["steps"][0]["controller_time"] == "2026-02-02T02:40:00.005000Z"
        unasked = await api.get("/api/v1/priority-requests/cab-1/r-3")
        assert (unasked["state"], unasked["reason"]) == (None, "the lease is over")
        assert (unasked["asked"], unasked["wait_s"]) == (None, None)
        odd = await api.get("/api/v1/priority-requests/cab-1/r-4")
        assert (odd["state"], odd["contradiction"], len(odd["steps"])) == (
            "rejected",
            "activated after rejected",
            2,
        )

    async def test_what_is_not_there_or_not_understood_is_a_problem(self, api: Api) -> None:
        for path in (
            "/priority-requests/cab-1/none",
            "/priority-requests/none/r-1",
            "/cabinets/none/priority",
        ):
            problem(await api.http.get(f"/api/v1{path}"), 404)
        for path, query in (
            ("/priority-requests", {"state": "granted"}),
            ("/priority-requests", {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}),
            ("/priority-requests", {"cursor": "W10"}),
            ("/priority-requests", {"cursor": "WzFlMzAsMV0"}),
            ("/priority-figures", {"from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"}),
            ("/priority-figures", {"to": "2026-01-01T00:00:00"}),
        ):
            problem(await api.http.get(f"/api/v1{path}", params=query), 400)

    async def test_a_number_that_no_list_has_is_no_cursor(self, api: Api) -> None:
        for path in ("alarms", "commands", "priority-requests"):
            for cursor in ("OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5LCAiIl0"):
                problem(await api.http.get(f"/api/v1/{path}", params={"cursor": cursor}), 400)

    async def test_health_counts_contradictions(self, api: Api, cabinet: CabinetDouble) -> None:
        await self._street(api, cabinet)
        assert (await api.get("/api/v1/health"))["ingest"]["contradictory"] == 1

    async def test_each_step_reaches_a_watcher(self, api: Api, cabinet: CabinetDouble) -> None:
        watcher = api.central.feed.join("cab-1", _kinds("priority"))
        writes: AsyncIterator[bytes] = watcher.writes()
        await anext(writes)
        await tell(api, cabinet, *passage("r-1")[:2])
        events = (await anext(writes)).decode().strip().split("\n\n")
        assert [event.split("\n")[0] for event in events] == ["event: priority"] * 2
        said = [msgspec.json.decode(event.split("data: ")[1]) for event in events]
        assert [(one["id"], one["state"]) for one in said] == [("r-1", "received"), ("r-1", "queued")]


class TestFigures:
    """What priority did, as the controllers say."""

    async def _figures(self, api: Api, **query: object) -> list[Json]:
        return await api.all("/api/v1/priority-figures", limit=1, **FEBRUARY, **query)

    async def test_each_request_is_counted_by_what_the_controller_said(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        await api.deliver(cabinet.hello())
        ends = (S.REJECTED, S.COOLDOWN, S.TIMEOUT, S.QUEUED, None)
        await tell(api, cabinet, *passage("r-1"), *passage("r-2", 60, extension_s=2, reduction_s=0))
        await tell(api, cabinet, *passage("r-3", 90)[:3], step(S.STALE, 300, request="r-3"))
        await tell(api, cabinet, *(step(state, 400 + n, request=f"e-{n}") for n, state in enumerate(ends)))
        await tell(api, cabinet, step(None, 500, request="s-1", reason="it would be asked for", shadow=True))
        trial = passage("t-1", 505, source=Source.TECHNICIAN, vehicle="")
        await tell(api, cabinet, *trial)
        await tell(api, cabinet, step(None, 510, request="n-1", reason="not asked: its lease is over"))
        (one,) = await self._figures(api)
        assert (one["day"], one["cabinet"], one["junction"], one["rule"]) == (
            "2026-02-02",
            "cab-1",
            JUNCTION,
            "trunk-lines",
        )
        assert (one["requests"], one["granted"], one["stale"], one["shadow"]) == (9, 3, 1, 1)
        assert (one["rejected"], one["cooldown"], one["timed_out"]) == (1, 1, 1)
        assert (one["waiting"], one["unanswered"], one["not_asked"]) == (1, 1, 1)
        apart = ("granted", "rejected", "cooldown", "timed_out", "waiting", "unanswered", "not_asked")
        assert sum(one[name] for name in apart) == one["requests"]
        assert (one["contradictory"], one["trials"]) == (0, 1)
        assert (one["extension_s"], one["reduction_s"], one["green_seconds_gained"]) == (11, 3, 14)
        assert one["median_wait_s"] == 8.0

    async def test_days_junctions_and_rules_are_counted_apart_newest_day_first_in_parts(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        other = junction_cabinet("cab-2")
        await api.deliver(cabinet.hello(), other.hello())
        await tell(api, cabinet, *passage("r-1"), *passage("r-2", DAY_S), *passage("r-3", DAY_S, rule="tram"))
        await tell(api, other, *passage("r-1", junction=DeviceId("cab-2-junction")))
        counted = [(one["day"][-2:], one["cabinet"], one["rule"]) for one in await self._figures(api)]
        assert counted == [
            ("03", "cab-1", "tram"),
            ("03", "cab-1", "trunk-lines"),
            ("02", "cab-1", "trunk-lines"),
            ("02", "cab-2", "trunk-lines"),
        ]
        assert len(await self._figures(api, junction="cab-2-junction")) == 1
        assert len(await self._figures(api, cabinet="cab-1", rule="trunk-lines")) == 2

    async def test_what_was_completed_was_granted_though_nobody_saw_it_begin(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        received, _, _, completed = passage("r-1")
        await tell(api, cabinet, received, completed)
        (one,) = await self._figures(api)
        assert (one["granted"], one["green_seconds_gained"], one["median_wait_s"]) == (1, 12, None)

    async def test_what_contradicts_itself_gains_nothing(self, api: Api, cabinet: CabinetDouble) -> None:
        steps = [step(S.REJECTED), *passage("r-1", 1)[2:]]
        await tell(api, cabinet, *steps)
        (one,) = await self._figures(api)
        assert (one["granted"], one["rejected"], one["contradictory"]) == (0, 1, 1)
        assert (one["green_seconds_gained"], one["median_wait_s"]) == (0, None)

    async def test_without_a_range_the_last_seven_days_are_meant(
        self, api: Api, cabinet: CabinetDouble
    ) -> None:
        now_ms = api.central.clock.now().utc_ms
        for days in (0, 6, 7):
            at_ms = (now_ms // 86_400_000 - days) * 86_400_000
            await tell(api, cabinet, step(request=f"r-{days}", at_ms=at_ms))
        assert len((await api.get("/api/v1/priority-figures"))["items"]) == 2


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A store that many stories share, each with a cabinet of its own."""
    opened = Desk(tmp_path_factory.mktemp("city") / "central.db")
    yield opened
    opened.close()


NUMBERS = count()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 1), st.booleans()), max_size=12))
def test_the_median_is_that_of_the_waits(city: Desk, waits: list[tuple[int, int, bool]]) -> None:
    name = f"cab-{next(NUMBERS)}"
    cabinet = junction_cabinet(name)
    told = []
    for n, (wait_ms, day, active) in enumerate(waits):
        begun = step(request=f"r-{n}", after_s=day * DAY_S, junction=DeviceId(f"{name}-junction"))
        end = S.ACTIVATED if active else S.COMPLETED
        told += [begun, msgspec.structs.replace(begun, state=end, at_ms=begun.at_ms + wait_ms)]
    city.deliver(cabinet.message(cabinet.seal_event(*told), StreamClass.EVENTS))
    asked = figures.Question(START_MS - 1, START_MS + 3 * DAY_S * 1000, name, None, None)
    found, _ = figures.page(city.db, asked, figures.BEGINNING, 10)
    expected = {}
    for day in sorted({day for _, day, _ in waits}, reverse=True):
        counted = [wait_ms / 1000 for wait_ms, which, active in waits if which == day and active]
        expected[day] = median(counted) if counted else None
    assert [one.median_wait_s for one in found] == pytest.approx(list(expected.values()))


def devices() -> list[Device]:
    """Return one device of every kind, each with something to read and something to command."""
    return [
        Device(
            DeviceId(f"cab-1-{kind.value.replace('_', '-')}"),
            kind,
            LineId("line-1"),
            f"ns=2;s=Station.{kind.value}",
            points=(
                Point(PointName("setpoint"), "m", writable=True, minimum=0.5, maximum=4),
                Point(PointName("mode"), "{code}", writable=True),
                Point(PointName("level"), "m"),
            ),
        )
        for kind in Kind
    ]


class TestEveryKind:
    """A junction, a pumping station or a bin is seen and commanded as a meter is."""

    @pytest.fixture
    async def street(self, api: Api, cabinet: CabinetDouble) -> Api:
        cabinet.inventory = tuple(devices())
        doubtful = [
            sample(
                one.id,
                0,
                [PointName("level"), PointName("mode"), PointName("setpoint")],
                [3.25, "auto", Fault(Quality.BAD, Reason.SENSOR_FAILURE)],
            )
            for one in devices()
        ]
        doubts = {0: Fault(Quality.UNCERTAIN, Reason.STALE), 1: Fault(Quality.UNCERTAIN, Reason.INACCURATE)}
        cabinet.seal([msgspec.structs.replace(one, faults=one.faults | doubts) for one in doubtful])
        await api.deliver(cabinet.hello(), cabinet.message(1))
        return api

    @pytest.mark.parametrize("kind", Kind)
    async def test_it_is_found_by_its_kind_with_its_address(self, street: Api, kind: Kind) -> None:
        (one,) = await street.all("/api/v1/devices", kind=kind.value)
        assert (one["kind"], one["address"]) == (kind.value, f"ns=2;s=Station.{kind.value}")
        assert await street.get(f"/api/v1/devices/{one['id']}") == one

    async def test_a_doubtful_value_is_shown_with_its_doubt_and_a_bad_one_with_its_reason(
        self, street: Api
    ) -> None:
        expected = [
            ("level", 3.25, "uncertain", "stale"),
            ("mode", "auto", "uncertain", "inaccurate"),
            ("setpoint", None, "bad", "sensor_failure"),
        ]
        for one in devices():
            latest = await street.get(f"/api/v1/devices/{one.id}/latest")
            assert [(p["point"], p["value"], p["quality"], p["reason"]) for p in latest] == expected
            history = await street.get(f"/api/v1/devices/{one.id}/points/level/history")
            assert [(item["value"], item["quality"], item["reason"]) for item in history["items"]] == [
                (3.25, "uncertain", "stale")
            ]

    @pytest.mark.parametrize("kind", Kind)
    async def test_a_command_to_it_is_taken_on(self, street: Api, kind: Kind) -> None:
        device = f"cab-1-{kind.value.replace('_', '-')}"
        for point, value in (
            ("setpoint", 2.5),
            ("setpoint", 1),
            ("mode", "manual"),
            ("mode", 3),
            ("mode", True),
        ):
            answer = await street.http.post(
                "/api/v1/commands", json={"device": device, "point": point, "value": value}
            )
            assert (answer.status_code, answer.json()["state"]) == (202, "queued"), answer.text

    @pytest.mark.parametrize("kind", Kind)
    async def test_what_it_cannot_do_is_refused_with_the_reason(self, street: Api, kind: Kind) -> None:
        device = f"cab-1-{kind.value.replace('_', '-')}"
        later = datetime.fromtimestamp(street.central.clock.civil().utc_ms / 1000 + 3_600).astimezone()
        for wrong, where in (
            ({"point": "level", "value": 1}, "point"),
            ({"point": "ghost", "value": 1}, "point"),
            ({"point": "setpoint", "value": 4.5}, "value"),
            ({"point": "setpoint", "value": "high"}, "value"),
            ({"point": "setpoint", "value": True}, "value"),
            ({"point": "setpoint", "value": None}, "value"),
            ({"point": "setpoint", "value": 2, "until": later.isoformat()}, "until"),
        ):
            answer = await street.http.post("/api/v1/commands", json={"device": device} | wrong)
            assert faulty(problem(answer, 422)) == [where], wrong

    async def test_every_type_of_alarm_is_shown_and_found(self, street: Api) -> None:
        cabinet = junction_cabinet()
        cabinet.seal_event(
            *(AlarmEvent(DeviceId("cab-1-junction"), kind, START_MS, None, kind.value) for kind in AlarmType)
        )
        await street.deliver(*cabinet.waiting())
        found = await street.all("/api/v1/alarms", limit=7)
        assert {one["type"]: one["severity"] for one in found} == {
            kind.value: severity.value for kind, severity in SEVERITY.items()
        }
        for kind in AlarmType:
            (one,) = await street.all("/api/v1/alarms", type=kind.value, active="true")
            assert one["text"] == kind.value

    def test_every_kind_of_change_can_be_followed(self) -> None:
        assert _kinds(",".join(kind.value for kind in ChangeKind)) == frozenset(ChangeKind)
