"""Histories of words, and what is torn in them."""

import struct
from collections.abc import Callable
from functools import partial

import pytest

from server.region.layout import WORD
from server.region.region import Region
from tests.crash_images.histories import History, Words, by_bytecode
from tests.crash_images.tracer import trace
from tests.helpers import crash

OLD, NEW = 0x0102_0304_0506_0708, 0x1112_1314_1516_1718


def _store(region: Region, word: int) -> None:
    region.words[word] = NEW


def _store_and_back(region: Region, word: int) -> None:
    region.words[word] = NEW
    region.words[word] = OLD


def _pack(order: str, region: Region, word: int) -> None:
    struct.pack_into(f"{order}Q", region.bytes, word * WORD, NEW)


def _histories(region: Region, operation: Callable[[], object]) -> tuple[History, History]:
    """By instruction, by bytecode."""
    before = bytes(region.bytes)
    stored, found = History(region), History(region)
    by_bytecode(operation, stored.look)
    region.bytes[:] = before
    trace(lambda: operation, found.look)
    return found, stored


@pytest.mark.parametrize(
    ("store", "values"), [(_store, [OLD, NEW]), (_store_and_back, [OLD, NEW, OLD])]
)
def test_a_word_is_stored_whole(store: Callable[[Region, int], None], values: list[int]) -> None:
    with crash.small_region() as region:
        word = region.layout["accounts"].at(1, "balance")
        region.words[word] = OLD
        found, stored = _histories(region, partial(store, region, word))
        assert found.values == stored.values == {word: values}
        assert len(found.images) == 2
        assert Words(region.layout).torn(found.values, stored.values) == ([], 0)


@pytest.mark.parametrize("order", ["=", "<", ">"])
def test_pack_into_tears_a_word(order: str) -> None:
    with crash.small_region() as region:
        word = region.layout["accounts"].at(1, "balance")
        region.words[word] = OLD
        found, stored = _histories(region, partial(_pack, order, region, word))
        ((line,), in_blocks) = Words(region.layout).torn(found.values, stored.values)
        assert line.startswith(f"accounts[1].balance held {OLD}, 0, ")
        assert in_blocks == 0


def test_a_torn_word_in_a_block_is_counted() -> None:
    with crash.small_region() as region:
        word = region.layout["users"].at(1, "name")
        region.words[word] = OLD
        found, stored = _histories(region, partial(_pack, "=", region, word))
        assert Words(region.layout).torn(found.values, stored.values) == ([], 1)


def test_words_have_names() -> None:
    with crash.small_region() as region:
        words, before = Words(region.layout), bytes(region.bytes)
        region.words[region.layout["users"].at(2, "name") + 1] = 1
        region.words[region.layout["log"].at(0, "lock")] = 0
        after = bytes(region.bytes)
        assert words.differing(before, after) == ["log[0].lock+0", "users[2].name+1"]
        assert words.semaphores(before, after) == ["log[0].lock+0"]
