"""Gaps where people look for them: the list, a cabinet, the health report, the terminal, and the feed."""

import io
from collections.abc import AsyncIterator

import msgspec
import pytest
from rich.console import Console

from central.api.bodies import CabinetSummary, Health
from central.clock import moment
from central.effects import ChangeKind
from central.status import Status, show
from protocols.backhaul.messages import GapCause, GapEvent
from protocols.model.device import StreamClass
from tests.central.api_desk import Api, Json
from tests.central.cabinet_double import START_MS, CabinetDouble, taken
from tests.central.problems import problem

GAPS = "/api/v1/gaps"


def lost(
    from_s: int, stream: StreamClass, cause: GapCause = GapCause.CRASH, count: int | None = None
) -> GapEvent:
    return GapEvent(stream, cause, START_MS + 1_000 * from_s, START_MS + 1_000 * from_s + 5_000, count)


@pytest.fixture
async def told(api: Api, cabinet: CabinetDouble) -> Api:
    """Two cabinets: one reports four gaps, of the other the centre concludes one."""
    cabinet.seal_event(
        lost(10, StreamClass.ORDINARY),
        lost(20, StreamClass.BULK, GapCause.SHED, 7),
        lost(30, StreamClass.BULK, GapCause.CORRUPT, 5),
        lost(60, StreamClass.CRITICAL, GapCause.SHED),
    )
    other = CabinetDouble("cab-2")
    for number in range(3):
        other.seal([taken(other.lamp(), number, at_ms=40_000 + number)])
    other.shed(2)
    await api.deliver(cabinet.hello(), *cabinet.waiting(), other.hello(), other.message(3))
    return api


def brief(items: list[Json]) -> list[tuple[str, str, str]]:
    return [(one["cabinet"], one["stream"], one["cause"]) for one in items]


class TestList:
    """All gaps of the city, the latest first, narrowed to what somebody looks for."""

    async def test_in_parts_of_any_size_nothing_is_missed_or_repeated(self, told: Api) -> None:
        whole = await told.all(GAPS)
        ends = [one["to"] for one in whole]
        assert (len(whole), ends) == (5, sorted(ends, reverse=True))
        for limit in range(1, 6):
            assert await told.all(GAPS, limit=limit) == whole

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"cabinet": "cab-2"}, [("cab-2", "ordinary", "shed")]),
            ({"stream": "bulk"}, [("cab-1", "bulk", "corrupt"), ("cab-1", "bulk", "shed")]),
            ({"cause": "crash"}, [("cab-1", "ordinary", "crash")]),
            ({"cause": "shed", "cabinet": "cab-1", "stream": "critical"}, [("cab-1", "critical", "shed")]),
            ({"reported": "false"}, [("cab-2", "ordinary", "shed")]),
            ({"cabinet": "none"}, []),
        ],
    )
    async def test_it_can_be_narrowed(
        self, told: Api, query: dict[str, str], expected: list[tuple[str, str, str]]
    ) -> None:
        assert brief(await told.all(GAPS, **query)) == expected

    async def test_a_range_of_time_holds_what_touches_it(self, told: Api) -> None:
        query = {"from": moment(START_MS + 25_000).isoformat(), "to": moment(START_MS + 30_000).isoformat()}
        found = brief(await told.all(GAPS, cabinet="cab-1", **query))
        assert found == [("cab-1", "bulk", "corrupt"), ("cab-1", "bulk", "shed")]

    async def test_a_gap_says_all_that_can_be_known(self, told: Api) -> None:
        (shed,) = await told.all(GAPS, cause="shed", stream="bulk")
        assert (shed["from"], shed["to"], shed["count"], shed["reported"]) == (
            "2026-02-02T02:40:20Z",
            "2026-02-02T02:40:25Z",
            7,
            True,
        )
        assert (shed["epoch"], shed["first"], shed["last"]) == (None, None, None)
        (concluded,) = await told.all(GAPS, reported="false")
        assert (concluded["from"], concluded["count"]) == (None, None)
        assert (concluded["epoch"], concluded["first"], concluded["last"]) == (7_001, 1, 2)
        assert concluded["learnt"] is not None

    @pytest.mark.parametrize(
        "query", [{"stream": "brook"}, {"cause": "magic"}, {"cursor": "W10"}, {"from": "yesterday"}]
    )
    async def test_what_cannot_be_asked_is_answered_as_a_problem(
        self, told: Api, query: dict[str, str]
    ) -> None:
        problem(await told.http.get(GAPS, params=query), 400)


class TestOverview:
    """How much is missing, at a glance."""

    async def test_a_cabinet_counts_its_gaps_and_says_when_the_last_was_over(self, told: Api) -> None:
        first, second = (await told.get("/api/v1/cabinets"))["items"]
        assert (first["gaps"], first["last_gap"]) == (4, "2026-02-02T02:41:05Z")
        assert (second["gaps"], second["id"]) == (1, "cab-2")
        shown = await told.get("/api/v1/cabinets/cab-1")
        assert (shown["gaps"], shown["last_gap"]) == (4, "2026-02-02T02:41:05Z")

    async def test_health_counts_by_cause_and_says_what_nobody_could_count(self, told: Api) -> None:
        answer = (await told.http.get("/api/v1/health")).json()
        assert answer["gaps"] == {
            "gaps": 5,
            "by_cause": {"corrupt": 1, "crash": 1, "shed": 3},
            "readings": 12,
            "uncounted": 3,
        }

    async def test_the_terminal_says_it_too(self, told: Api) -> None:
        health = msgspec.convert((await told.http.get("/api/v1/health")).json(), Health)
        cabinets = msgspec.convert((await told.get("/api/v1/cabinets"))["items"], list[CabinetSummary])
        text = io.StringIO()
        show(Status(health, cabinets), Console(file=text, width=200))
        assert "missing 12 readings in 5 gaps (1 corrupt, 1 crash, 3 shed)" in text.getvalue()
        assert "what nobody could count in 3" in text.getvalue()
        assert "4, last 2026-02-02 02:41 UTC" in text.getvalue()
        empty = msgspec.structs.replace(health, gaps=msgspec.structs.replace(health.gaps, gaps=0))
        show(Status(empty, []), Console(file=text, width=200))
        assert "missing nothing that is known of" in text.getvalue()


async def events(writes: AsyncIterator[bytes]) -> list[Json]:
    chunk = (await anext(writes)).decode().strip().split("\n\n")
    assert all(one.startswith("event: gap\n") for one in chunk)
    return [msgspec.json.decode(one.split("data: ")[1]) for one in chunk]


async def test_whoever_watches_sees_gaps_come_grow_and_go(api: Api, cabinet: CabinetDouble) -> None:
    writes = api.central.feed.join("cab-1", frozenset({ChangeKind.GAP})).writes()
    await anext(writes)
    for number in range(4):
        cabinet.seal([taken(cabinet.lamp(), number, at_ms=number)])
    cabinet.shed(3)
    await api.deliver(cabinet.hello(), cabinet.message(4))
    (concluded,) = await events(writes)
    assert [(one["first"], one["last"], one["reported"]) for one in concluded["gaps"]] == [(1, 3, False)]

    said = GapEvent(StreamClass.ORDINARY, GapCause.SHED, START_MS, START_MS + 9, 2, 1, 2, cabinet.epoch)
    await api.deliver(cabinet.message(cabinet.seal_event(said), StreamClass.EVENTS))
    told = await events(writes)
    assert [one["first"] for change in told for one in change["gaps"]] == [3, 1]
    assert [change["withdrawn"] for change in told if change["withdrawn"]] == [[concluded["gaps"][0]["id"]]]

    ids = []
    for from_s in (10, 15):
        await api.deliver(
            cabinet.message(
                cabinet.seal_event(lost(from_s, StreamClass.BULK, GapCause.SHED, 1)), StreamClass.EVENTS
            )
        )
        (change,) = await events(writes)
        ids += [(one["id"], one["to"]) for one in change["gaps"]]
    assert ids == [(ids[0][0], "2026-02-02T02:40:15Z"), (ids[0][0], "2026-02-02T02:40:20Z")]


async def test_a_batch_that_is_set_aside_tells_of_its_own_gap_and_of_no_other(
    api: Api, cabinet: CabinetDouble
) -> None:
    writes = api.central.feed.join("cab-1", frozenset({ChangeKind.GAP})).writes()
    await anext(writes)
    cabinet.seal_event(lost(10, StreamClass.BULK), GapEvent(StreamClass.BULK, GapCause.SHED, 0, 0, 1, 9, 8))
    await api.deliver(cabinet.message(1, StreamClass.EVENTS))
    (change,) = await events(writes)
    assert [(one["stream"], one["cause"]) for one in change["gaps"]] == [("events", "corrupt")]
    assert len(await api.all(GAPS)) == 1
