"""From a folder of footage to a data set: packs of short, sharp, moving sequences and their manifest.

For each video: `footage.analyse` finds windows of consecutive new pictures; of each window up to two square tiles in
which something moves are cut out, at full size or, from large pictures, at a size drawn at random; what is too soft or
too compressed is left out; the rest goes into packs as JPEG. After each video one line is added to `build.jsonl`, and a
build that was stopped goes on behind the last one, with the same bytes in the end. The split into train, val and test
comes last, by source: no two sequences of one source, nor of two sources that show the same pictures, are parted.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from deblur.blur import blur_score
from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.training.footage import LOOK, Footage, Reader, Window, analyse, is_rate
from fpsgan.training.manifest import MANIFEST, SPLITS, Clip, write_manifest
from fpsgan.video.fields import treated
from fpsgan.video.files import whole
from fpsgan.video.probe import VideoInfo, probe

__all__ = ["REASONS", "VIDEOS", "BuildOptions", "Progress", "Summary", "build", "find_videos"]

T = TypeVar("T")
Image = NDArray[np.uint8]  # [H,W,3] RGB

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".wmv", ".flv",
          ".3gp", ".ogv", ".mxf", ".y4m", ".vob", ".insv", ".gif")  # fmt: skip
JOURNAL, SUMMARY, CONTACT, PACKS, SOURCES = "build.jsonl", "summary.json", "contact.jpg", "packs", "SOURCES.tsv"

SMALLEST = 128  # px, of a side: less is no use for training
REDUCED = 540  # px, of the short side: how far large pictures may be shrunk
MOVES = 0.25  # px per frame, at the tile's size, from which a cell counts as moving
MOVING = 0.1  # of a tile's cells that must move
MIN_BITS = 0.012  # per pixel and picture: below that even H.265 paints; 720p at 60 fps and 0.66 Mbit/s
MAX_BLOCKS = 2.0  # see footage.blockiness
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
FEW = 50  # sequences to train on: with fewer a note is due
LOOKS = 64  # thumbnails kept of a source to tell whether another shows the same
SAME_LOOK = 0.985  # correlation of thumbnails of the same moment, from another file
PLAIN = 8.0  # codes, rms: a thumbnail with less in it could be anything
ROW = 120  # px, of the contact sheet
MOTION_STEPS = (1, 2, 4, 8, 16, 32)  # px per frame, of the histogram
REASONS = {
    "repeated": "repeated pictures (held, or of a padded rate)",
    "short": "between cuts, gaps and repeats, too short for a sequence",
    "slow": "new pictures too seldom for --min-fps",
    "static": "nothing moves",
    "blurred": "not sharp",
    "compressed": "compressed too much",
    "spare": "more than --per-source",
}


@dataclass(frozen=True)
class BuildOptions:
    """What goes into a data set. OptionError for values that make no sense."""

    length: int = 13  # frames of a sequence
    tile: int = 320  # px, of a side; smaller pictures are taken whole
    tiles: int = 2  # of a window at most
    per_source: int = 500  # sequences of one source at most, spread evenly over it; 0: no limit
    min_fps: Fraction = Fraction(48)
    max_blur: float = 1.75  # blur_score: 1.1 is sharp, 2 all smooth
    native: bool = False  # tiles in the footage's own pixels, however compressed; otherwise shrunk at random
    lossless: bool = False  # PNG
    pack_size: float = 512  # MiB
    val: float = 0.1  # share of the sources
    test: float = 0.05
    licence: str = ""  # of what no SOURCES.tsv lists
    seed: int = 0

    def __post_init__(self) -> None:
        for right, name, value, what in (
            (self.length >= 3, "--length", self.length, "3 frames or more"),
            (self.tile >= SMALLEST, "--tile", self.tile, f"{SMALLEST} px or more"),
            (self.tiles >= 1, "--tiles", self.tiles, "1 or more"),
            (self.per_source >= 0, "--per-source", self.per_source, "0 (no limit) or more"),
            (self.min_fps >= 0, "--min-fps", self.min_fps, "0 or more"),
            (0 < self.max_blur <= 2, "--max-blur", self.max_blur, "above 0 and at most 2 (everything)"),
            (self.pack_size > 0, "--pack-size", self.pack_size, "above 0 MiB"),
            (0 <= self.val < 1, "--val", self.val, "a share from 0 to below 1"),
            (0 <= self.test < 1, "--test", self.test, "a share from 0 to below 1"),
            (self.val + self.test < 1, "--val and --test", self.val + self.test, "together below 1"),
            (self.seed >= 0, "--seed", self.seed, "0 or more"),
        ):
            if not right:
                raise OptionError(f"{name} {value}: must be {what}")


@dataclass(frozen=True)
class Progress:
    """`stage` is "look", "cut" or "done"; `done` the share of all work (by bytes of footage), 0 to 1; `eta` s."""

    source: str
    number: int
    total: int
    stage: str
    done: float
    sequences: int
    eta: float


@dataclass(frozen=True)
class Summary:
    """What was built. Dictionaries are by split, except `motion` (sequences by px per frame, upper bound), `rejected`
    (seconds of footage by reason, see REASONS), `refused` (one line per source that gave nothing, by source) and
    `readers` (sources by what read them). `unreadable` are those of the refused that are no readable video."""

    output: Path
    sources: dict[str, int]
    sequences: dict[str, int]
    frames: dict[str, int]
    hours: dict[str, float]
    motion: dict[str, int]
    rejected: dict[str, float]
    refused: dict[str, str]
    unreadable: tuple[str, ...]
    readers: dict[str, int]
    packs: int
    bytes: int
    notes: tuple[str, ...]


@dataclass
class _Source:
    """A line of the journal: what became of one video."""

    source: str
    digest: str
    clips: list[Clip] = field(default_factory=list)
    rejected: dict[str, float] = field(default_factory=dict)
    refused: str = ""
    unreadable: bool = False
    note: str = ""
    reader: str = ""
    looks: str = ""  # thumbnails, uint8 [n,9,16] in base64
    pack: int = 0  # where the next source goes on: number of the pack,
    size: int = 0  # and its bytes so far


def find_videos(footage: Sequence[str | Path]) -> dict[str, Path]:
    """The files named, and of folders all videos below, by a name relative to the folder that holds them all, sorted.

    InputError for a place that does not exist, or if there is no video at all.
    """
    files: set[Path] = set()
    for place in map(Path, footage):
        if place.is_dir():
            files |= {p.resolve() for p in place.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file()}
        elif place.is_file():
            files.add(place.resolve())
        else:
            raise InputError(f"{place}: no such file or folder; name videos, or folders that hold some")
    if not files:
        raise InputError(f"{', '.join(map(str, footage))}: no video in there (looked for {' '.join(VIDEOS)})")
    common = Path(os.path.commonpath([path.parent for path in files]))
    return dict(sorted((path.relative_to(common).as_posix(), path) for path in files))


def build(
    footage: Sequence[str | Path],
    output: str | Path,
    *,
    options: BuildOptions | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Make a data set in the folder `output` from videos and folders of videos.

    Stopped at any moment and called again with the same arguments it goes on, and ends with the same files, byte for
    byte. `on_note` gets one line for each source that is left out, as it happens.

    Raises InputError where no footage is usable, OptionError for options that make no sense or differ from those of
    the build that is to go on, OutputError for a folder that holds a finished data set or something else, or a full
    disk (call again once there is room).
    """
    options = options or BuildOptions()
    output = Path(output)
    videos = find_videos(footage)
    sizes = {name: path.stat().st_size for name, path in videos.items()}
    header = {"options": json.loads(json.dumps(dataclasses.asdict(options), default=str)), "footage": sizes}
    licences = _Licences(options.licence)
    finished: list[_Source] = []
    try:
        finished = _open_journal(output, header, overwrite)
        done, began = {entry.source for entry in finished}, time.monotonic()
        whole, before = max(1, sum(sizes.values())), sum(sizes[name] for name in done)
        with _Packs(output, options.pack_size, finished) as packs:
            for number, (name, path) in enumerate(videos.items(), 1):
                if name in done:
                    continue
                sequences = sum(len(entry.clips) for entry in finished)
                passed = sum(sizes[entry.source] for entry in finished)

                def tell(
                    stage: str, share: float, name: str = name, number: int = number, passed: int = passed,
                    sequences: int = sequences,
                ) -> None:  # fmt: skip
                    now = passed + share * sizes[name]
                    eta = (time.monotonic() - began) * (whole - now) / max(now - before, 1)
                    on_progress(Progress(name, number, len(videos), stage, now / whole, sequences, eta))

                entry = _take(path, name, options, licences.of(path), finished, packs, tell)
                entry.pack, entry.size = packs.sync()
                _append(output / JOURNAL, _journal_line(entry))
                finished.append(entry)
                for line in filter(None, (entry.refused, entry.note)):
                    on_note(line)
        summary = _finish(output, options, finished)
    except OSError as error:
        raise OutputError(
            f"{output}: {error.strerror or error}; with that mended, the same command goes on behind the "
            f"{len(finished)} of {len(videos)} videos that are finished"
        ) from error
    on_progress(Progress("", len(videos), len(videos), "done", 1.0, sum(summary.sequences.values()), 0.0))
    return summary


# --- one source ----------------------------------------------------------------------------------------------


def _take(
    path: Path,
    name: str,
    options: BuildOptions,
    licence: str,
    finished: Sequence[_Source],
    packs: _Packs,
    tell: Callable[[str, float], None],
) -> _Source:
    """Look at one video, cut its sequences out and put them into the packs."""
    tell("look", 0.0)
    entry = _Source(name, "")
    try:
        entry.digest = _digest(path)
        twin = next((other for other in finished if other.digest == entry.digest), None)
        if twin is not None:
            entry.refused = f"{name}: the same file as {twin.source}"
            return entry
        info = treated(probe(path), "auto", interpolate=False)
        entry.refused = _unfit(name, info, options)
        if entry.refused:
            return entry
        frames = max(1, info.frame_count)
        footage = analyse(info, options.length, options.min_fps, lambda k: tell("look", 0.6 * min(1.0, k / frames)))
        if footage.damage:
            entry.note = f"{name}: {len(footage.damage)} damaged places left out, the first: {footage.damage[0]}"
        _cut(info, entry, footage, options, licence, packs, lambda share: tell("cut", 0.6 + 0.4 * share))
    except InputError as error:
        packs.forget()
        return _Source(name, entry.digest, refused=str(error).replace(str(path), name), unreadable=True)
    entry.rejected = {reason: round(footage.rejected[reason], 6) for reason in REASONS if footage.rejected[reason]}
    if not entry.clips:
        most = max(entry.rejected, key=lambda reason: entry.rejected[reason], default="short")
        if most == "slow" or (not footage.windows and footage.rejected["slow"]):
            entry.refused = (
                f"{name}: stored at {_rate(info.frame_rate)} fps, but its pictures change only "
                f"{_rate(footage.best_rate)} times a second: high frame rate footage is needed "
                f"({_rate(options.min_fps)} or more); --min-fps {int(footage.best_rate)} takes it anyway"
            )
        else:
            entry.refused = f"{name}: nothing usable in its {float(info.duration):.1f} s, mostly: {REASONS[most]}"
    return entry


def _unfit(name: str, info: VideoInfo, options: BuildOptions) -> str:
    if not is_rate(info.frame_rate, options.min_fps):
        return (
            f"{name}: {_rate(info.frame_rate)} fps: high frame rate footage is needed ({_rate(options.min_fps)} or "
            f"more); --min-fps {int(info.frame_rate)} takes it anyway"
        )
    if min(info.width, info.height) < SMALLEST:
        return f"{name}: {info.width}×{info.height}: at least {SMALLEST} px a side are needed"
    return ""


def _rate(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


Box = tuple[int, int, int, int]  # x, y, width, height in the source's px


def _cut(
    info: VideoInfo,
    entry: _Source,
    footage: Footage,
    options: BuildOptions,
    licence: str,
    packs: _Packs,
    tell: Callable[[float], None],
) -> None:
    """Choose tiles of the windows, read, judge and pack them."""
    rng = np.random.default_rng([options.seed, int(entry.digest[:15], 16)])
    smallest = min(1.0, REDUCED / min(info.width, info.height))
    chosen = []
    for window in footage.windows:
        drawn = float(np.exp(rng.uniform(np.log(smallest), 0.0)))
        # what is too soft or too compressed at the scale that was drawn may do at the smallest
        shrunk = [scale for scale in dict.fromkeys((drawn, smallest)) if not _compressed(window, scale)]
        scales = [1.0] if options.native else shrunk
        centres = _moving(window, info, scales[0], options, rng) if scales else []
        if centres:
            chosen.append((window, scales, centres))
        else:
            footage.reject("static" if scales else "compressed", len(window.times) / window.rate)
    entry.looks = base64.b64encode(b"".join(window.look.tobytes() for window, *_ in _spread(chosen, LOOKS))).decode()
    if options.per_source and sum(len(centres) for *_, centres in chosen) > options.per_source:
        kept = _spread(chosen, max(1, options.per_source // options.tiles))
        spare = [window for window, *_ in chosen if window not in [other for other, *_ in kept]]
        footage.reject("spare", sum(len(window.times) / window.rate for window in spare))
        chosen = kept
    reader = Reader(info, footage) if chosen else None
    for number, (window, scales, centres) in enumerate(chosen):
        assert reader is not None
        tell(number / len(chosen))
        boxes = [[_box(centre, info, scale, options) for scale in scales] for centre in centres]
        cuts: list[list[list[Image]]] = [[[] for _ in scales] for _ in centres]
        for image in reader.read(window):
            for tile, cut in zip(boxes, cuts, strict=True):
                for (box, size), images in zip(tile, cut, strict=True):
                    images.append(_crop(image, box, size))
        before = len(entry.clips)
        for place, (tile, cut) in enumerate(zip(boxes, cuts, strict=True)):
            for (box, size), images in zip(tile, cut, strict=True):
                blur = float(np.median([blur_score(images[k]) for k in (0, len(images) // 2, len(images) - 1)]))
                if not 0 < blur <= options.max_blur:  # 0: nothing to be seen
                    continue
                pack, offsets = packs.add([_encode(image, options.lossless) for image in images])
                entry.clips.append(
                    Clip(
                        name=f"{entry.source}/{window.numbers[0]:06d}-{place}",
                        source=entry.source,
                        split="train",  # until all sources are known
                        count=len(images),
                        width=size[0],
                        height=size[1],
                        rate=window.rate,
                        start=window.numbers[0],
                        crop=box,
                        motion=round(_motion(window, info, box) * size[0] / box[2], 3),
                        sharpness=round(blur, 3),
                        licence=licence,
                        pack=pack,
                        offsets=offsets,
                    )
                )
                break
        if len(entry.clips) == before:
            footage.reject("blurred", len(window.times) / window.rate)
    entry.reader = reader.name if reader is not None else ""


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of them, evenly over the list."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).astype(int))] if items else []


def _compressed(window: Window, scale: float) -> bool:
    """Shrinking gathers the bits of 1/scale² pixels in one, and blurs the borders of blocks."""
    return 0 < window.bits < MIN_BITS * scale**2 or 1 + (window.blocks - 1) * scale > MAX_BLOCKS


def _box(
    centre: tuple[float, float], info: VideoInfo, scale: float, options: BuildOptions
) -> tuple[Box, tuple[int, int]]:
    """The tile about a point, and its size (width, height) once shrunk."""
    box, size = [], []
    for middle, side in zip(centre, (info.width, info.height), strict=True):
        shrunk = min(options.tile, round(side * scale))
        extent = min(side, round(shrunk / scale))
        box.append((min(max(round(middle - extent / 2), 0), side - extent), extent))
        size.append(shrunk)
    (x, width), (y, height) = box
    return (x, y, width, height), (size[0], size[1])


def _moving(
    window: Window, info: VideoInfo, scale: float, options: BuildOptions, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Centres of tiles that do not overlap, drawn by how much of them moves; none where nothing does."""
    (_, _, width, height), _ = _box((0, 0), info, scale, options)
    places = [
        (x + width / 2, y + height / 2)
        for y in np.unique(np.linspace(0, info.height - height, 1 + 4 * (info.height - height) // height).round())
        for x in np.unique(np.linspace(0, info.width - width, 1 + 4 * (info.width - width) // width).round())
    ]
    moves = window.speed * np.float32(scale / float(window.rate)) >= MOVES
    shares = np.array([_cells(moves, info, _box(place, info, scale, options)[0]).mean() for place in places])
    shares[shares < MOVING] = 0
    found: list[tuple[float, float]] = []
    while len(found) < options.tiles and shares.any():
        x, y = places[int(rng.choice(len(places), p=shares / shares.sum()))]
        found.append((x, y))
        near = [abs(x - other[0]) < width and abs(y - other[1]) < height for other in places]
        shares[near] = 0
    return found


def _cells(grid: NDArray[Any], info: VideoInfo, box: Box) -> NDArray[Any]:
    """The cells of a grid over the whole picture that a box touches."""
    x, y, width, height = box
    rows, columns = grid.shape
    top, bottom = y * rows // info.height, -(-(y + height) * rows // info.height)
    left, right = x * columns // info.width, -(-(x + width) * columns // info.width)
    return grid[top:bottom, left:right]


def _motion(window: Window, info: VideoInfo, box: Box) -> float:
    """px of the source per frame, the median over what moves in the box."""
    speed = _cells(window.speed, info, box) / float(window.rate)
    return float(np.median(speed[speed >= MOVES])) if (speed >= MOVES).any() else float(speed.max())


def _crop(image: Image, box: Box, size: tuple[int, int]) -> Image:
    x, y, width, height = box
    part = image[y : y + height, x : x + width]
    if (width, height) == size:
        return part.copy()
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)


def _encode(image: Image, lossless: bool) -> bytes:
    kind, options = (".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]) if lossless else (".jpg", JPEG)
    return cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


class _Licences:
    """The licence of a file: from the nearest SOURCES.tsv beside or above it that lists it, else `otherwise`."""

    def __init__(self, otherwise: str) -> None:
        self.otherwise = otherwise or "unknown"
        self.tables: dict[Path, dict[str, str]] = {}

    def of(self, path: Path) -> str:
        for folder in path.parents:
            if folder not in self.tables:
                self.tables[folder] = _licence_table(folder / SOURCES)
            table = self.tables[folder]
            found = table.get(path.relative_to(folder).as_posix()) or table.get(path.name)
            if found:
                return found
        return self.otherwise


def _licence_table(path: Path) -> dict[str, str]:
    """{file: licence} of a tab-separated table with columns file (or name) and licence; {} if there is none."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    columns = rows[0].keys() if rows else ()
    name = next((c for c in ("file", "name") if c in columns), None)
    licence = next((c for c in ("licence", "license") if c in columns), None)
    if rows and (name is None or licence is None):
        raise InputError(f"{path}: needs the columns file and licence, separated by tabs; has {', '.join(columns)}")
    return {row[name]: row[licence] or "" for row in rows if row[name]}


# --- files that grow ---------------------------------------------------------------------------------------


class _Packs:
    """Packs, written one after the other. Whatever stands behind the last finished source is cut off at the start."""

    def __init__(self, output: Path, most: float, finished: Sequence[_Source]) -> None:
        self.output, self.most = output, round(most * 2**20)
        self.synced = (finished[-1].pack, finished[-1].size) if finished else (0, 0)
        self.file: BinaryIO | None = None
        self.number = self.size = 0
        (output / PACKS).mkdir(exist_ok=True)
        self.forget()

    def __enter__(self) -> _Packs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, codes: Sequence[bytes]) -> tuple[str, tuple[int, ...]]:
        """Append the pictures of one sequence; (pack's path in the data set, offsets)."""
        total = sum(map(len, codes))
        if total > self.most:
            raise OptionError(
                f"--pack-size {self.most / 2**20:g}: one sequence takes {total / 2**20:.1f} MiB; make it larger"
            )
        if self.size + total > self.most:
            self._go_on(self.number + 1, 0)
        assert self.file is not None
        offsets = np.cumsum([self.size, *map(len, codes)]).tolist()
        for code in codes:
            self.file.write(code)
        self.size = offsets[-1]
        return self._name(self.number), tuple(offsets)

    def sync(self) -> tuple[int, int]:
        """Make sure that it is on the disk; (number of the pack, its size)."""
        assert self.file is not None
        self.file.flush()
        os.fsync(self.file.fileno())
        self.synced = (self.number, self.size)
        return self.synced

    def forget(self) -> None:
        """Back to the last `sync`."""
        number, size = self.synced
        for path in (self.output / PACKS).glob("*.bin"):
            if path.stem.isdigit() and int(path.stem) > number:
                path.unlink()
        path = self.output / self._name(number)
        there = path.stat().st_size if path.exists() else 0
        if there < size:
            raise OutputError(f"{path}: {size} bytes were written, {there} are there; --overwrite builds it again")
        self._go_on(number, size)

    def _go_on(self, number: int, size: int) -> None:
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        self.number, self.size = number, size
        self.file = (self.output / self._name(number)).open("ab")
        self.file.truncate(size)

    @staticmethod
    def _name(number: int) -> str:
        return f"{PACKS}/{number:04d}.bin"


def _journal_line(entry: _Source) -> str:
    return json.dumps({**vars(entry), "clips": [clip.to_json() for clip in entry.clips]}, ensure_ascii=False) + "\n"


def _append(path: Path, line: str) -> None:
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _clear(output: Path) -> None:
    """Remove what a build has written, the journal last."""
    own = [output / name for name in (MANIFEST, SUMMARY, CONTACT)]
    for path in (*own, *(output / PACKS).glob("*.bin"), output / JOURNAL):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or something else lies in it
        (output / PACKS).rmdir()


def _open_journal(output: Path, header: dict[str, Any], overwrite: bool) -> list[_Source]:
    """The sources that an earlier run has finished, with these options; begins a journal where there is none."""
    path = output / JOURNAL
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; -o wants a folder for the data set")
    if not path.exists() and output.is_dir() and any(output.iterdir()):
        raise OutputError(f"{output}: holds other things; -o wants a new or empty folder for the data set")
    if overwrite and path.exists():
        _clear(output)
    if (output / MANIFEST).exists():
        raise OutputError(f"{output}: holds a finished data set; -y builds it again, another -o keeps it")
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    if len(lines) < 3:  # no source was finished
        output.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        _append(path, json.dumps(header, ensure_ascii=False) + "\n")
        return []
    try:
        begun, *entries = (json.loads(line) for line in lines[:-1])  # behind the last \n stands half a line, or nothing
        for name, value in header["options"].items():
            if begun["options"][name] != value:
                raise OptionError(
                    f"{output}: was begun with --{name.replace('_', '-')} {begun['options'][name] or 'none'}, not "
                    f"{value or 'none'}; go on with that, or -y to begin again"
                )
        finished = [_Source(**{**e, "clips": [Clip.from_json(c, output) for c in e["clips"]]}) for e in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({error}); -y begins again") from error
    changed = sorted(
        k for k in begun["footage"].keys() | header["footage"] if begun["footage"].get(k) != header["footage"].get(k)
    )
    if changed:
        raise InputError(
            f"{changed[0]}: {'and others have' if len(changed) > 1 else 'has'} come, gone or changed since this build "
            f"was begun; put the footage back, or -y to begin {output} again"
        )
    with path.open("ab") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:-1]))
    return finished


# --- all sources ---------------------------------------------------------------------------------------------


def _finish(output: Path, options: BuildOptions, finished: Sequence[_Source]) -> Summary:
    """Split, and write what the data set is read and judged by; the manifest last: with it the data set is finished."""
    used = [entry for entry in finished if entry.clips]
    refused = {entry.source: entry.refused for entry in finished if entry.refused}
    if not used:  # the next attempt will have other options or more footage
        _clear(output)
        more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise InputError(f"no usable footage: {'; '.join(list(refused.values())[:5])}{more}")
    groups = _same_scenes(used)
    splits = _split(groups, options)
    clips = [dataclasses.replace(clip, split=splits[e.source], root=output) for e in used for clip in e.clips]
    per_split = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    notes = [f"{' and '.join(e.source for e in g)} show the same: kept in one split" for g in groups if len(g) > 1]
    if options.val and not per_split["val"]:
        notes.append(
            "only one scene is usable, so there is nothing to validate on and training keeps its last weights, not "
            "its best: add footage of another scene"
        )
    if len(per_split["train"]) < FEW:
        notes.append(f"only {len(per_split['train'])} sequences to train on, {FEW} or more are wanted: add footage")
    bounds = [*(f"<{step}" for step in MOTION_STEPS), f"≥{MOTION_STEPS[-1]}"]
    steps = np.searchsorted(MOTION_STEPS, [clip.motion for clip in clips], side="right")
    packs = sorted((output / PACKS).glob("*.bin"))
    summary = Summary(
        output=output,
        sources={s: sum(splits[e.source] == s for e in used) for s in SPLITS},
        sequences={s: len(found) for s, found in per_split.items()},
        frames={s: sum(clip.count for clip in found) for s, found in per_split.items()},
        hours={s: round(float(sum(c.count / c.rate for c in found)) / 3600, 6) for s, found in per_split.items()},
        motion={bound: int((steps == k).sum()) for k, bound in enumerate(bounds)},
        rejected={r: round(sum(e.rejected.get(r, 0.0) for e in finished), 3) for r in REASONS},
        refused=refused,
        unreadable=tuple(entry.source for entry in finished if entry.unreadable),
        readers={name: sum(e.reader == name for e in used) for name in ("decord", "PyAV")},
        packs=len(packs),
        bytes=sum(path.stat().st_size for path in packs),
        notes=tuple(notes),
    )
    _write(output / SUMMARY, json.dumps({**vars(summary), "output": "."}, indent=2, ensure_ascii=False).encode())
    _write(
        output / CONTACT, cv2.imencode(".jpg", _contact_sheet(used, clips), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    )
    write_manifest(output, clips)
    return summary


def _write(path: Path, content: bytes) -> None:
    with whole(path) as part:
        part.write_bytes(content)


def _same_scenes(used: Sequence[_Source]) -> list[list[_Source]]:
    """Sources that show the same moments (other encodings or cuts of one recording) in one group, by thumbnails."""
    looks = []
    for entry in used:
        raw = np.frombuffer(base64.b64decode(entry.looks), np.uint8).reshape(-1, LOOK[0] * LOOK[1]).astype(np.float32)
        raw = raw[raw.std(axis=1) > PLAIN] - raw[raw.std(axis=1) > PLAIN].mean(axis=1, keepdims=True)
        looks.append(raw / np.linalg.norm(raw, axis=1, keepdims=True))
    groups: list[list[int]] = []
    for k, own in enumerate(looks):
        same = [g for g in groups if any((own @ looks[j].T > SAME_LOOK).any(axis=1).sum() >= 2 for j in g)]
        groups = [g for g in groups if g not in same] + [[*(j for g in same for j in g), k]]
    return [[used[j] for j in group] for group in sorted(groups)]


def _split(groups: Sequence[Sequence[_Source]], options: BuildOptions) -> dict[str, str]:
    """{source: split}. By the order of hashes of content and seed; the largest group stays in train."""
    largest = max(groups, key=lambda group: sum(len(entry.clips) for entry in group))
    drawn = sorted(
        (group for group in groups if group is not largest),
        key=lambda group: hashlib.sha256(f"{options.seed} {min(e.digest for e in group)}".encode()).digest(),
    )
    counts: dict[str, int] = {}
    for split, share in (("val", options.val), ("test", options.test)):
        wanted = max(1, round(share * len(groups))) if share else 0
        counts[split] = min(wanted, len(drawn) - sum(counts.values()))
    order = ["val"] * counts["val"] + ["test"] * counts["test"]
    order += ["train"] * (len(drawn) - len(order))
    found = {entry.source: "train" for entry in largest}
    return found | {entry.source: split for group, split in zip(drawn, order, strict=True) for entry in group}


def _contact_sheet(used: Sequence[_Source], clips: Sequence[Clip]) -> Image:
    """BGR: a row for each source (100 at most, evenly), its sequences' middle frames and what was measured."""
    rows = []
    for entry in _spread(used, 100):
        own = [clip for clip in clips if clip.source == entry.source]
        row = np.full((ROW, 300 + 6 * (ROW + 4), 3), 255, np.uint8)
        motion, sharpness = (float(np.median([getattr(c, name) for c in own])) for name in ("motion", "sharpness"))
        rates = "/".join(sorted({_rate(clip.rate) for clip in own}))
        lines = (
            entry.source if len(entry.source) <= 44 else f"...{entry.source[-41:]}",
            f"{own[0].split}, {len(own)} sequences at {rates} fps",
            f"motion {motion:.1f} px per frame",
            f"blur score {sharpness:.2f}",
        )
        for k, line in enumerate(lines):
            ascii_line = line.encode("ascii", "replace").decode()
            cv2.putText(row, ascii_line, (6, 22 + 20 * k), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
        for k, clip in enumerate(_spread(own, 6)):
            image = cv2.cvtColor(clip.read(clip.count // 2), cv2.COLOR_RGB2BGR)
            factor = ROW / max(image.shape[:2])
            size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            x = 300 + k * (ROW + 4)
            row[: size[1], x : x + size[0]] = image
        rows += [row, np.full((4, row.shape[1], 3), 255, np.uint8)]
    return np.vstack(rows)
