"""A job as a list of segments: what each one makes, and the folder that keeps finished ones until all are done.

A segment is a pure function of source, range and settings: it decodes a run-up, from which the stages rebuild their
state, makes its own outputs and encodes them into a file of its own. So a job can resume, whatever stopped it, and
segments can be made in parallel, by several processes or machines, with the same frames.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fpsgan import __version__
from fpsgan.errors import InputError
from fpsgan.stages import deblurring, interpolation, scenes
from fpsgan.video.ffmpeg import ffmpeg_version
from fpsgan.video.files import PART, SEGMENTS, TARGET, is_claimed, remove, write_whole
from fpsgan.video.probe import VideoInfo

__all__ = [
    "Record",
    "Segment",
    "Store",
    "Timing",
    "Unfinished",
    "fingerprint",
    "finished",
    "identity",
    "plan_segments",
    "unfinished",
]

LENGTH = 10  # seconds of output in a segment, about: the most that a crash can cost
RUN_UP = 2 + max(scenes.RUN_UP, interpolation.RUN_UP, deblurring.RUN_UP)  # source frames
MANIFEST = "job.json"
ENDS = 1 << 20  # bytes at either end of a source that identify it

Record = dict[str, Any]  # of a finished segment: the name of its pictures ("" for none), its Counts, its notes


@dataclasses.dataclass(frozen=True)
class Timing:
    """When the outputs are. ``rate``: output frames per second, None where every frame keeps its own time; ``step``:
    source seconds from one output to the next; ``start``: the beginning that was asked for, ``first``: the pts of the
    first frame from there on, both in seconds of the source; ``total``: outputs expected."""

    rate: Fraction | None
    step: Fraction
    slowmo: Fraction
    start: Fraction
    first: Fraction
    total: int

    @property
    def begin(self) -> Fraction:
        """The output time of output 0, in seconds."""
        return (self.first - self.start) * self.slowmo


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a job: the outputs ``first`` ≤ number < ``until``, which lie from ``begin`` up to ``end`` in seconds of
    the source. The stages see frames from ``decode`` on, and sharpen from ``sharpen`` on; ``seek``: whether decoding
    may begin there, and not only at the start of the job. None: from the start, or to the end."""

    number: int
    first: int
    until: int | None
    begin: Fraction | None
    end: Fraction | None
    decode: Fraction | None
    sharpen: Fraction | None
    seek: bool = True

    def holds(self, pts: Fraction) -> bool:
        """Whether a source frame belongs to this segment, and to no other."""
        return (self.begin is None or self.begin <= pts) and (self.end is None or pts < self.end)

    @property
    def name(self) -> str:
        return f"{self.number:06}"

    @property
    def words(self) -> str:
        """Its range, for messages."""
        begin = 0.0 if self.begin is None else float(self.begin)
        return f"segment from {begin:.3f} s to {'the end' if self.end is None else f'{float(self.end):.3f} s'}"


def plan_segments(info: VideoInfo, timing: Timing) -> list[Segment]:
    """Cut a job into segments of LENGTH seconds of output; the last one may be nearly twice as long.

    Depends on nothing but the source and the settings. Segments need not begin at scene changes: the run-up rebuilds
    the state of each stage, except for what deblurring remembers of a whole scene.
    """
    size = max(1, round(LENGTH / (timing.step * timing.slowmo)))
    count = max(1, timing.total // size)
    shown = info.presentation.times
    zero = info.origin / info.time_base

    def before(moment: Fraction | None, frames: int) -> Fraction | None:
        """The time of the picture that is so many before the one shown at a moment of the source."""
        if moment is None:
            return None
        at = bisect_right(shown, moment / info.time_base + zero) - 1 - frames
        return (shown[at] - zero) * info.time_base if at > 0 else None

    # pulldown is removed by cycles that are counted from the first picture
    seek = info.treatment is None or not info.treatment.cycle

    edges = [None, *(timing.first + k * size * timing.step for k in range(1, count)), None]
    return [
        Segment(
            number, number * size, None if end is None else (number + 1) * size, begin, end,
            decode=before(begin, RUN_UP), sharpen=before(begin, deblurring.RUN_UP), seek=seek,
        )
        for number, (begin, end) in enumerate(pairwise(edges))
    ]  # fmt: skip


# --- unfinished jobs -------------------------------------------------------------------------------------------------


def identity(info: VideoInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that the frames of a job depend on: jobs of the same identity have the same segments.

    Raises InputError if the source cannot be read.
    """
    return {
        "version": __version__,
        "ffmpeg": ffmpeg_version(),
        "source": [fingerprint(path) for path in info.images or (info.path,)],
        "settings": {name: str(value) for name, value in settings.items()},
    }


def fingerprint(path: Path) -> dict[str, Any]:
    """What identifies a file. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(ENDS))
            file.seek(max(0, found.st_size - ENDS))
            digest.update(file.read(ENDS))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return {
        "path": str(path.absolute()), "size": found.st_size, "modified": found.st_mtime_ns, "ends": digest.hexdigest()
    }  # fmt: skip


class Store:
    """The finished segments of one job, and their pictures by name, in a ``folder`` of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_job(cls, place: Path, made_of: Mapping[str, Any], target: Path, note: Callable[[str], None]) -> Store:
        """That of a job with this `identity`, in the job's folder ``place``.

        The folder's name is a digest of the identity, so that segments of other settings, or of another source, are
        never mixed in; they stay beside it until the output is finished. A folder of that name whose manifest does not
        match is removed. ``note`` is told of both.
        """
        text = json.dumps(made_of, sort_keys=True, indent=1)
        folder = place / f"{SEGMENTS}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        manifest = folder / MANIFEST
        if folder.exists() and _read(manifest) != json.loads(text):
            note(f"{manifest}: damaged, or of another job; what lies beside it is not used")
            shutil.rmtree(folder)
        if any(path != folder for path in place.glob(f"{SEGMENTS}-*")):
            note("an unfinished job with other settings, or another source, is set aside until this one is done")
        folder.mkdir(exist_ok=True)
        for part in folder.glob(f"{PART}-*"):
            remove(part)
        if not manifest.exists():
            write_whole(manifest, text)
            write_whole(place / TARGET, json.dumps({"target": str(target.absolute())}))
        return cls(folder)

    def record(self, segment: Segment) -> Record | None:
        """The record of a segment; None if it is not finished."""
        found = _read(self.folder / f"{segment.name}.json")
        return found if found is not None and (self.folder / found["pictures"]).exists() else None

    def read(self, name: str) -> dict[str, bytes]:
        """The files of a segment's pictures by name; "" where they are one file and not a folder."""
        path = self.folder / name
        return {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else {"": path.read_bytes()}

    def receive(self, name: str, files: Mapping[str, bytes]) -> None:
        """Store what `read` returned on another machine."""
        part = self.folder / f"{PART}-{name}"
        for file, content in files.items():
            target = part / file if file else part
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        part.replace(self.folder / name)

    def finish(self, segment: Segment, record: Record) -> None:
        """Mark a segment, whose pictures are complete, as finished."""
        write_whole(self.folder / f"{segment.name}.json", json.dumps(record))


def _read(path: Path) -> Record | None:
    """The JSON object in a file; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def finished(place: Path) -> list[Path]:
    """The records of all finished segments in a job's folder, whatever their settings."""
    return [path for path in place.glob(f"{SEGMENTS}-*/*.json") if path.stem.isdecimal()]


class Unfinished(NamedTuple):
    """What an interrupted job has left; ``size`` in bytes, ``age`` in seconds since its last write."""

    target: Path
    place: Path
    segments: int
    size: int
    age: float


def unfinished(folder: Path) -> Iterator[Unfinished]:
    """Every unfinished job with its output in ``folder``, except those that are running. Raises InputError."""
    try:
        places = sorted(folder.glob(".*.fpsgan"))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    for place in places:
        said = _read(place / TARGET)
        if said is None or is_claimed(place):
            continue
        files = [path for path in place.rglob("*") if path.is_file()]
        newest = max(path.stat().st_mtime for path in files)
        size = sum(path.stat().st_size for path in files)
        yield Unfinished(Path(said["target"]), place, len(finished(place)), size, max(0.0, time.time() - newest))
