from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import TYPE_CHECKING

import pytest
from counting import count_calls

from careamics_dm.images.file_handles import HandleCache

if TYPE_CHECKING:
    from collections.abc import Hashable


class Handle:
    """Knows whether it is open."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.is_open = True

    def close(self) -> None:
        assert self.is_open, "closed twice"
        self.is_open = False


def cache_of(most: int) -> tuple[HandleCache[Handle], list[Handle]]:
    opened: list[Handle] = []

    def open_handle(key: Hashable) -> Handle:
        opened.append(Handle(key))
        return opened[-1]

    return HandleCache(open_handle, Handle.close, most), opened


def test_a_handle_stays_open_between_uses() -> None:
    cache, opened = cache_of(2)
    with cache.use("a") as first:
        pass
    with cache.use("a") as second:
        assert second is first
    assert first.is_open
    assert len(opened) == 1


def test_the_least_recently_used_is_closed() -> None:
    cache, opened = cache_of(2)
    for key in "abac":
        with cache.use(key):
            pass
    assert {h.key: h.is_open for h in opened} == {"a": True, "b": False, "c": True}


def test_what_is_in_use_is_never_closed_by_eviction() -> None:
    cache, opened = cache_of(1)
    with cache.use("a") as a:
        for key in "bcd":
            with cache.use(key):
                pass
        assert a.is_open
    with cache.use("a") as again:
        assert again is a
    assert sum(h.is_open for h in opened) == 1


def test_close_waits_for_the_last_user() -> None:
    cache, opened = cache_of(4)
    with cache.use("a") as a, cache.use("a"):
        cache.close("a")
        assert a.is_open
        with cache.use("a") as fresh:  # who comes later gets a new one
            assert fresh is not a
    assert not a.is_open
    assert fresh.is_open
    cache.close("a")
    assert not fresh.is_open
    cache.close("never opened")
    assert len(opened) == 2


def test_close_all() -> None:
    cache, opened = cache_of(4)
    for key in "abc":
        with cache.use(key):
            pass
    cache.close_all()
    assert not any(h.is_open for h in opened)


def test_a_handle_that_cannot_be_opened_leaves_nothing_behind() -> None:
    attempts = []

    def refuse(key: Hashable) -> Handle:
        attempts.append(key)
        raise OSError("no")

    cache = HandleCache(refuse, Handle.close)
    for _ in range(2):
        with pytest.raises(OSError, match="no"), cache.use("a"):
            pass
    assert attempts == ["a", "a"]
    with cache.use("a", Handle) as handle:  # an opener for this once
        assert handle.is_open


def test_an_error_in_use_gives_the_handle_back() -> None:
    cache, opened = cache_of(4)
    with pytest.raises(ZeroDivisionError), cache.use("a"):
        _ = 1 / 0
    cache.close("a")
    assert not opened[0].is_open


def test_threads_share_one_handle_per_key() -> None:
    barrier = Barrier(8)
    opened: list[Handle] = []

    def slow(key: Hashable) -> Handle:
        time.sleep(0.02)
        opened.append(Handle(key))
        return opened[-1]

    cache = HandleCache(slow, Handle.close, 2)

    def work(number: int) -> None:
        barrier.wait()
        for _ in range(50):
            with cache.use(number % 2) as handle:
                assert handle.is_open

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(opened) == 2


def test_opening_one_key_does_not_hold_up_another() -> None:
    go = Event()

    def open_handle(key: Hashable) -> Handle:
        if key == "slow":
            assert go.wait(10)
        return Handle(key)

    cache = HandleCache(open_handle, Handle.close)

    def use(key: str) -> str:
        with cache.use(key):
            return key

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(use, "slow")
        assert pool.submit(use, "quick").result(10) == "quick"
        go.set()
        assert slow.result(10) == "slow"


@pytest.mark.parametrize("most", [1, 3])
def test_threads_that_evict_each_other(most: int) -> None:
    cache, opened = cache_of(most)

    def work(seed: int) -> None:
        for i in range(200):
            with cache.use((seed * 7 + i * 3) % 10) as handle:
                assert handle.is_open

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sum(h.is_open for h in opened) <= most


def sized(most: int) -> HandleCache[bytes]:
    """Return a cache whose handles cost what their keys say."""
    return HandleCache(lambda key: bytes(int(str(key))), len, most, cost=len)


def test_handles_that_cost_more_than_one() -> None:
    cache = sized(1000)
    for key, n_open in ((400, 1), (401, 2), (402, 2), (100, 3), (300, 3), (5000, 1)):
        with cache.use(key, room=key):
            assert len(cache) == n_open, key
    with cache.roomy(10_000), cache.use(4000):
        assert len(cache) == 2
    assert len(cache) == 0


def test_room_is_made_before_a_handle_is_opened() -> None:
    cache, opened = cache_of(2)
    for key in "ab":
        with cache.use(key):
            pass

    def open_last(key: Hashable) -> Handle:
        assert [handle.is_open for handle in opened] == [False, True]
        return Handle(key)

    with cache.use("c", open_last, room=1) as c:
        assert c.is_open


def test_large_handles_are_opened_one_after_the_other() -> None:
    opening: list[Hashable] = []

    def open_slowly(key: Hashable) -> bytes:
        opening.append(key)
        time.sleep(0.02)
        assert opening == [key]
        return bytes(int(str(opening.pop())))

    cache = HandleCache(open_slowly, len, 1000, cost=len)

    def use(key: int) -> None:
        with cache.use(key, room=key):
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, (600, 601, 602, 603)))


_SHARED, _OPENED = cache_of(4)


def _opens_its_own() -> tuple[int, bool]:
    before = len(_OPENED)
    with _SHARED.use("a"):
        return len(_OPENED) - before, _OPENED[0].is_open


FORK = [method for method in multiprocessing.get_all_start_methods() if method == "fork"]


@pytest.mark.parametrize("method", FORK)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_opens_its_own_and_closes_none_of_its_parents(method: str) -> None:
    with _SHARED.use("a") as mine:
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(_opens_its_own) == (1, True)
        assert mine.is_open
    _SHARED.close_all()
    assert not mine.is_open


def test_a_use_takes_as_much_work_however_many_handles_are_open():
    def calls(n):
        cache = HandleCache(str, str, most=10_000)

        def use(key=0):
            with cache.use(key):
                pass

        for key in range(n):
            use(key)
        return count_calls(use)

    assert calls(1) == calls(1000)
