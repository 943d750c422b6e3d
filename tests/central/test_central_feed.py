"""Live changes: each watcher gets what it asked for, in order, and an honest count of what it lost."""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from central.effects import Change, ChangeKind
from central.feed import MAX_WAITING, MAX_WAITING_BYTES, MAX_WATCHERS, Feed, Watcher
from protocols.model.ids import CabinetId
from tests.central.api_desk import Api
from tests.central.cabinet_double import CabinetDouble, taken

ALL = frozenset(ChangeKind)


class Body(msgspec.Struct, frozen=True):
    n: int


def change(n: int, kind: ChangeKind = ChangeKind.ALARM, cabinet: str = "cab-1") -> Change:
    return Change(kind, CabinetId(cabinet), Body(n))


async def next_write(writes: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(5):
        return await anext(writes)


async def begun(watcher: Watcher) -> AsyncIterator[bytes]:
    writes = watcher.writes()
    assert await next_write(writes) == b"retry: 2000\n\n"
    return writes


async def test_what_waits_is_written_at_once_and_in_order() -> None:
    feed = Feed()
    watcher = feed.join(None, ALL)
    writes = await begun(watcher)
    feed.publish([change(1), change(2, ChangeKind.POLICY)])
    assert await next_write(writes) == b'event: alarm\ndata: {"n":1}\n\nevent: policy\ndata: {"n":2}\n\n'


async def test_a_watcher_gets_only_what_it_asked_for() -> None:
    feed = Feed()
    watcher = feed.join("cab-2", frozenset({ChangeKind.LATEST}))
    writes = await begun(watcher)
    feed.publish(
        [
            change(1, ChangeKind.LATEST, "cab-1"),
            change(2, ChangeKind.ALARM, "cab-2"),
            change(3, ChangeKind.LATEST, "cab-2"),
        ]
    )
    assert await next_write(writes) == b'event: latest\ndata: {"n":3}\n\n'


async def test_a_slow_watcher_loses_the_oldest_and_is_told_how_many() -> None:
    feed = Feed()
    watcher = feed.join(None, ALL)
    writes = await begun(watcher)
    feed.publish(change(n) for n in range(MAX_WAITING + 25))
    written = (await next_write(writes)).split(b"\n\n")[:-1]
    assert written[0] == b'event: lost\ndata: {"count":25}'
    assert len(written) == MAX_WAITING + 1
    assert written[1].endswith(b'{"n":25}')
    assert written[-1].endswith(b'{"n":%d}' % (MAX_WAITING + 24))


async def test_large_events_give_way_before_they_fill_the_memory() -> None:
    watcher = Feed().join(None, ALL)
    writes = await begun(watcher)
    event = b"x" * (MAX_WAITING_BYTES // 4)
    for _ in range(7):
        watcher.give(event)
    written = await next_write(writes)
    assert written.startswith(b'event: lost\ndata: {"count":3}\n\n')
    assert written.count(b"x") == MAX_WAITING_BYTES
    watcher.give(event)
    assert await next_write(writes) == event


async def test_a_slow_watcher_does_not_hold_up_another() -> None:
    feed = Feed()
    feed.join(None, ALL)
    quick = await begun(feed.join(None, ALL))
    for n in range(MAX_WAITING + 5):
        feed.publish([change(n)])
        assert b"lost" not in await next_write(quick)


async def test_closing_ends_every_feed_after_what_waits() -> None:
    feed = Feed()
    writes = await begun(feed.join(None, ALL))
    feed.publish([change(1)])
    feed.close()
    assert [chunk async for chunk in writes] == [b'event: alarm\ndata: {"n":1}\n\n']
    assert feed.is_full()


async def test_who_has_left_gets_nothing_and_frees_the_place() -> None:
    feed = Feed()
    watchers = [feed.join(None, ALL) for _ in range(MAX_WATCHERS)]
    assert feed.is_full()
    feed.leave(watchers[0])
    assert not feed.is_full()
    assert feed.count() == MAX_WATCHERS - 1


def test_nothing_is_encoded_when_nobody_watches() -> None:
    feed = Feed()
    feed.publish([Change(ChangeKind.ALARM, CabinetId("c"), Body)])  # type: ignore[arg-type]  # would fail to encode
    assert not feed.watched()


async def test_committed_readings_reach_a_watcher_as_latest_values(api: Api, cabinet: CabinetDouble) -> None:
    cabinet.seal([taken(cabinet.lamp(), 1), taken(cabinet.lamp(), 2), taken(cabinet.lamp(1), True)])
    writes = await begun(api.central.feed.join("cab-1", frozenset({ChangeKind.LATEST})))
    await api.deliver(cabinet.message(1))
    name, body = (await next_write(writes)).decode().strip().split("\n")
    told = msgspec.json.decode(body.removeprefix("data: "))
    assert (name, told["cabinet"]) == ("event: latest", "cab-1")
    assert [(one["device"], one["point"], one["value"]) for one in told["readings"]] == [
        (cabinet.lamp(), "dimming_level", 2),
        (cabinet.lamp(1), "dimming_level", True),
    ]
