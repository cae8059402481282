from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest

from fpsgan.threads import copies, in_order, in_threads, prefetch


def test_prefetch_runs_ahead_but_not_far_and_hands_errors_over() -> None:
    made = []

    def items() -> Iterator[int]:
        for k in range(100):
            made.append(k)
            yield k
        raise ValueError("the end")

    stage = prefetch(items(), 3)
    assert next(stage) == 0
    time.sleep(0.3)
    assert len(made) <= 6
    with pytest.raises(ValueError, match="the end"):
        list(stage)
    assert len(made) == 100


@pytest.mark.parametrize("workers", [1, 3])
def test_work_is_done_in_order_at_once_and_errors_come_out_in_their_place(workers: int) -> None:
    running, most, taken = 0, 0, []
    lock = threading.Lock()

    def items() -> Iterator[int]:
        for k in range(12):
            taken.append(k)
            yield k

    def work(k: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03 if k % 3 else 0.06)
        with lock:
            running -= 1
        if k == 9:
            raise ValueError("the ninth")
        return 10 * k

    stage, found = in_order(items(), work, workers), []
    assert next(stage) == 0
    assert len(taken) <= workers + 1, "not far ahead"
    with pytest.raises(ValueError, match="the ninth"):
        for value in stage:
            found.append(value)
    assert found == [10 * k for k in range(1, 9)] and most == workers and running == 0


def test_copies_are_read_by_several_threads_and_each_is_told_of_an_error() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for k in range(200):
            asked.append(k)
            time.sleep(1e-4)
            yield k
        raise ValueError("the end")

    def read(own: Iterator[int]) -> tuple[list[int], str]:
        found: list[int] = []
        try:
            found.extend(iter(lambda: next(own), None))
        except ValueError as error:
            return found, str(error)
        return found, ""

    own = copies(items(), 4)
    assert next(own[0]) == 0 and asked == [0], "nothing is asked for ahead"
    with ThreadPoolExecutor(4) as pool:
        first, *rest = pool.map(read, own)
    assert first == (list(range(1, 200)), "the end")
    assert rest == [(list(range(200)), "the end")] * 3 and asked == list(range(200))


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_run_side_by_side_where_opencv_may_use_threads(threads: int) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        places = in_threads([threading.get_ident] * 2 + [lambda: time.sleep(0.05) or threading.get_ident()])
        assert (places == [threading.get_ident()] * 3) == (threads == 1)
        with pytest.raises(ZeroDivisionError):
            in_threads([lambda: 1, lambda: 1 / 0])
    finally:
        cv2.setNumThreads(before)
