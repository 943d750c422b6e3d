"""Counters and nonces of a LoRaWAN line: what the line was told to be on disk is there, whatever the disk does."""

import asyncio
import contextlib
from collections.abc import Coroutine
from pathlib import Path

import pytest
import structlog

from drivers import lora_store
from drivers.errors import LineDownError
from drivers.lora_store import Kept, Statement, Store
from tests.faults.disk import Kind, is_loaded
from tests.faults.sweep import FAULTS, Attempt, End, Fault, at_each_call

pytestmark = pytest.mark.on_a_faulty_disk
EUI = "0102030405060708"
FILE = "lorawan.db"


def used(nonce: int) -> list[Statement]:
    """Return what a join writes before it is answered: its nonce, and ours."""
    return [(lora_store.USED_NONCE, (EUI, nonce)), (lora_store.JOIN_NONCE, (nonce, EUI))]


def opened(folder: Path) -> Store:
    return Store(folder / FILE, structlog.get_logger())


async def kept(folder: Path) -> Kept:
    store = opened(folder)
    try:
        return await store.open()
    finally:
        await store.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    if is_loaded():  # otherwise the tests run elsewhere
        run(_prepare(folder))
    return folder


async def _prepare(folder: Path) -> None:
    store = opened(folder)
    await store.open()
    assert not await store.write_now([(lora_store.ADMIT, (EUI, bytes(16), None)), *used(1)])
    await store.close()


def run(story: Coroutine[object, object, None]) -> None:
    asyncio.run(story)


async def joins(attempt: Attempt) -> None:
    """Open the line's file and write three joins while the disk fails, then go on."""
    store, told = opened(attempt.folder), {1}
    with contextlib.suppress(LineDownError), attempt.failing():
        await store.open()
        for nonce in (2, 3, 4):
            if not await store.write_now(used(nonce)):
                told.add(nonce)
    if attempt.end is not End.CUT_AT_ONCE:
        if not store.is_open:
            await store.open()
        assert not await store.write_now(used(5))
        told.add(5)
    if attempt.end is not End.CLOSED:
        attempt.disk.power_cut(attempt.seed)
    await store.close()
    if attempt.end is not End.CLOSED:
        attempt.disk.power_on()
    (device,) = (await kept(attempt.folder)).devices
    assert told <= device.nonces <= {1, 2, 3, 4, 5}
    assert device.join_nonce == max(device.nonces)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_nonce_that_was_told_to_be_on_disk_is_never_forgotten(
    prepared: Path, tmp_path: Path, fault: Fault
) -> None:
    turns = at_each_call(prepared, tmp_path, fault, lambda attempt: run(joins(attempt)))
    if fault.kind & (Kind.WRITE | Kind.SYNC):
        assert turns > 0
