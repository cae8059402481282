"""Segments made in parallel: by several processes on this machine, or by the machines of a Ray cluster.

Both yield what `fpsgan.rendering.make_segments` does, in whatever order segments are finished.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import queue
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from fpsgan.errors import FpsganError, InputError, OptionError, SetupError
from fpsgan.rendering import Job, make_segments
from fpsgan.segments import Record, Segment, Store, fingerprint

__all__ = ["in_processes", "on_cluster"]

Note = Callable[[str], None]
RETRIES = 5  # of a task whose node is lost


def in_processes(
    job: Job,
    segments: Sequence[Segment],
    store: Store,
    on_frame: Callable[[], None],
    note: Note,
    devices: Sequence[str],
) -> Iterator[tuple[Segment, Record]]:
    """One process for each of the ``devices``, with its share of the cores. Raises what any of them raises, and
    SetupError if one was killed, as for lack of memory; what is finished stays in ``store``."""
    context = multiprocessing.get_context("spawn")
    todo, said = context.Queue(), context.Queue()
    for segment in segments:
        todo.put(segment)
    threads = max(1, torch.get_num_threads() // len(devices))
    workers = [
        context.Process(target=_work, args=(job, store, device, threads, todo, said), daemon=True)
        for device in devices[: len(segments)]
    ]
    for worker in workers:
        worker.start()
        todo.put(None)
    left = len(segments)
    try:
        while left:
            try:
                kind, *rest = said.get(timeout=0.2)
            except queue.Empty:
                lost = next((worker for worker in workers if worker.exitcode not in (None, 0)), None)
                if lost is not None:
                    raise SetupError(
                        f"a worker process ended (exit {lost.exitcode}), perhaps for lack of memory; what is "
                        "finished is kept: run the same command again, with fewer --workers"
                    ) from None
                continue
            if kind == "frame":
                on_frame()
            elif kind == "note":
                note(*rest)
            elif kind == "done":
                left -= 1
                yield rest[0], rest[1]
            else:
                raise rest[0]
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        for channel in (todo, said):
            channel.cancel_join_thread()
            channel.close()


def _work(job: Job, store: Store, device: str, threads: int, todo: Any, said: Any) -> None:
    """A worker process: one segment after another, until there are no more, or the parent process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    job = dataclasses.replace(job, options=dataclasses.replace(job.options, device=device))
    try:
        segments = iter(todo.get, None)
        for segment, record in make_segments(
            job, segments, store, lambda: said.put(("frame",)), lambda text: said.put(("note", text))
        ):
            said.put(("done", segment, record))
    except FpsganError as error:
        said.put(("failed", error))
    except Exception as error:  # noqa: BLE001 (handed to the parent)
        said.put(("failed", SetupError(f"a worker process failed: unexpected {type(error).__name__}: {error}")))


def _follow(parent: Any) -> None:
    parent.join()
    os._exit(1)


def on_cluster(
    job: Job, segments: Sequence[Segment], store: Store, on_frame: Callable[[], None], note: Note, address: str
) -> Iterator[tuple[Segment, Record]]:
    """Segments as tasks of the Ray cluster at ``address`` ("auto": the one that is running here).

    A task asks for a GPU where the cluster has any, else for one core; tasks of a node that is lost run again
    elsewhere. A node that sees the source under the same path reads it there; to others it is sent through Ray's
    object store, through which the pictures come back. Raises SetupError if Ray or the cluster is missing.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise SetupError("--cluster needs Ray: pip install 'fpsgan[cluster]'") from error
    if job.options.confidence_map is not None:
        raise OptionError("--confidence-map: its pictures would stay on the cluster's machines; leave --cluster out")
    connected = not ray.is_initialized()
    try:
        if connected:
            _reach(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise SetupError(
            f"--cluster {address}: no Ray cluster there ({' '.join(str(error).split())[:150]}); `ray start --head` "
            "starts one"
        ) from error
    cards = ray.cluster_resources().get("GPU", 0)
    make = ray.remote(num_cpus=1, num_gpus=1 if cards else 0, max_retries=RETRIES)(_on_node)
    known = {path: fingerprint(path) for path in job.info.images or (job.info.path,)}
    contents: dict[Path, Any] = {}  # the source in the object store, once a node needs it
    settled = ray.put(job)
    running = {make.remote([settled], segment, known, {}): segment for segment in segments}
    try:
        while running:
            ready, _ = ray.wait(list(running), timeout=0.5)
            for done in ready:
                segment = running.pop(done)
                try:
                    found = ray.get(done)
                except RayError as error:
                    cause = getattr(error, "cause", None)
                    if isinstance(cause, FpsganError):
                        raise cause from error
                    raise SetupError(f"{segment.words}: failed on the cluster ({str(error)[-300:]})") from error
                if found is None:
                    contents = contents or {path: ray.put(path.read_bytes()) for path in known}
                    running[make.remote([settled], segment, known, contents)] = segment
                    continue
                record, pictures = found
                for text in record["notes"]:
                    note(text)
                if record["pictures"]:
                    store.receive(record["pictures"], pictures)
                store.finish(segment, record)
                for _ in range(record["frames"]):
                    on_frame()
                yield segment, record
    finally:
        for task in running:
            ray.cancel(task, force=True)
        if connected:
            ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError if nothing listens there: Ray itself would retry for long, and then kill the process."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _on_node(
    settled: list[Any], segment: Segment, known: dict[Path, Any], contents: dict[Path, Any]
) -> tuple[Record, dict[str, bytes]] | None:
    """A Ray task: make one segment in a temporary folder; returns its record, and its files by name.

    None if this machine does not have the source under its path, and was not sent it in ``contents`` either.
    """
    import ray

    job: Job = ray.get(settled[0])
    missing = [path for path, expected in known.items() if not _is_here(path, expected)]
    if missing and not contents:
        return None
    with tempfile.TemporaryDirectory(prefix="fpsgan-") as name:
        folder = Path(name)
        job = _with_source(job, {path: ray.get(contents[path]) for path in missing}, folder)
        store = Store(folder)
        ((_, record),) = make_segments(job, [segment], store, lambda: None, lambda text: None)
        return record, store.read(record["pictures"]) if record["pictures"] else {}


def _is_here(path: Path, known: Any) -> bool:
    try:
        return bool(fingerprint(path) == known)
    except InputError:
        return False


def _with_source(job: Job, sent: dict[Path, bytes], folder: Path) -> Job:
    """The job, with the files that were ``sent`` written to ``folder`` and their paths replaced."""
    there: dict[Path, Path] = {}
    for path, content in sent.items():
        there[path] = folder / "source" / path.name
        there[path].parent.mkdir(exist_ok=True)
        there[path].write_bytes(content)
    info = dataclasses.replace(
        job.info,
        path=there.get(job.info.path, job.info.path),
        images=tuple(there.get(path, path) for path in job.info.images),
    )
    return dataclasses.replace(job, info=info)
