"""Work in several threads: a stage that runs ahead, a parallel map that keeps the order, a few calls at a time.

OpenCV, ffmpeg and torch release the GIL while they work, so threads do use the cores.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import tee
from typing import Any, TypeVar

import cv2

__all__ = ["copies", "in_order", "in_threads", "prefetch"]

T = TypeVar("T")
R = TypeVar("R")


def prefetch(items: Iterator[T], depth: int, tick: float | None = None) -> Generator[T, None, None]:
    """Run ``items`` in a thread, at most ``depth`` ahead. Its errors are raised here; closing this closes it too.

    With ``tick``, yields a None whenever there has been nothing else for so many seconds.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stop.is_set():
                    break
            put((False, None))
        except BaseException as error:  # noqa: BLE001 (handed to the thread that asked)
            put((False, error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            try:
                # an unbounded wait would block Ctrl-C on Windows
                more, item = ready.get(timeout=tick or 0.2)
            except queue.Empty:
                if tick:
                    yield None  # type: ignore[misc]  # only callers that ask for ticks get it
                continue
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                return
    finally:
        stop.set()
        thread.join(timeout=1.0)  # a network call cannot be interrupted; the thread ends when it returns


def in_order(items: Iterable[T], work: Callable[[T], R], workers: int) -> Iterator[R]:
    """``work(item)`` for every item, in order, each as soon as it is done, in ``workers`` threads.

    With several, the items are pulled, and closed, in a thread of their own, at most one ahead of the workers.
    """
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:

        def submitted() -> Generator[Future[R], None, None]:
            try:
                for item in items:
                    yield pool.submit(work, item)
            finally:
                if isinstance(items, Generator):
                    items.close()

        futures = prefetch(submitted(), workers - 1)
        try:
            for future in futures:
                yield future.result()
        finally:
            futures.close()
            pool.shutdown(cancel_futures=True)


def copies(items: Iterable[T], count: int) -> list[Iterator[T]]:
    """So many iterators over the same items, for several threads. An item is kept until each has had it; an error of
    the source comes out of each.
    """
    lock = threading.Lock()

    def entries() -> Iterator[Future[T]]:
        try:
            for item in items:
                entry: Future[T] = Future()
                entry.set_result(item)
                yield entry
        except Exception as error:  # noqa: BLE001 (handed to those that read)
            entry = Future()
            entry.set_exception(error)
            yield entry

    def one(own: Iterator[Future[T]]) -> Iterator[T]:
        while True:
            with lock:
                entry = next(own, None)
            if entry is None:
                return
            yield entry.result()

    return [one(own) for own in tee(entries(), count)]


def in_threads(calls: Sequence[Callable[[], R]]) -> list[R]:
    """What the calls return, run in parallel where OpenCV may use several threads (cv2.setNumThreads).

    They must not call this themselves: the threads are shared.
    """
    if len(calls) < 2 or cv2.getNumThreads() < 2:
        return [call() for call in calls]
    others = [_pool(os.getpid()).submit(call) for call in calls[1:]]
    return [calls[0](), *(other.result() for other in others)]


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Cached, since threads take half a millisecond to start; by process, since a fork has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count())
