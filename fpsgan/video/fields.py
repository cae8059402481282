"""Telecine and interlacing: what scan a video really has, and how to recover the moments that were filmed.

Flags are no help: telecined film is coded as interlaced or as progressive video, and 25i often holds progressive
frames. So ``find`` measures it on decoded frames, at several places in the file. ``treated`` chooses the treatment and
describes the video as it will be afterwards; ``treat`` applies it to decoded pictures.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import OptionError
from fpsgan.video.container import open_container, video_decoder

Luma = NDArray[np.uint8]

if TYPE_CHECKING:
    from fpsgan.video.probe import VideoInfo

__all__ = ["MODES", "Kind", "Scan", "Treatment", "find", "treat", "treated"]

MODES = ("auto", "fields", "frames", "film", "off")
FILM_RATE, VIDEO_RATE = Fraction(24000, 1001), Fraction(30000, 1001)
PLACES, RUN, LONG_RUN = 3, 16, 26  # frames in a run: three cycles of 2:3, one of Euro pulldown
COLUMNS = 360  # of the luma are analysed, and all rows
STILL = 0.25  # mean difference of fields, in codes of 255, below which nothing moves
TALLEST = 1152  # rows: no interlaced format has more


class Kind(enum.StrEnum):
    PROGRESSIVE = "progressive"
    INTERLACED = "interlaced"
    FILM = "film (2:3 pulldown)"
    FILM_FLAGS = "film (2:3 by repeat-field flags)"
    EURO_FILM = "film (24 in 25, one field repeated in 25)"
    SHIFTED = "progressive with its fields shifted by one"


@dataclasses.dataclass(frozen=True)
class Scan:
    """The scan of a video. ``top_first``: whether the top field of a frame is the earlier one, None if unknown.

    ``mixed``: other parts of the file are of another kind.
    """

    kind: Kind = Kind.PROGRESSIVE
    top_first: bool | None = None
    mixed: bool = False

    def __str__(self) -> str:
        order = {None: "", True: ", top field first", False: ", bottom field first"}[self.top_first]
        return f"{self.kind}{order}{', mixed with other parts' if self.mixed else ''}"


PROGRESSIVE = Scan()


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What is done to decoded pictures: ``filters`` of ffmpeg, then one of every ``cycle`` frames is dropped (0: none).

    ``rate`` is that of the source, ``first`` the time of its first picture in seconds by the job's clock; the pictures
    of a variable-rate source are counted in ``tick`` seconds, others in frames.
    """

    filters: tuple[tuple[str, str], ...]
    rate: Fraction
    first: Fraction
    tick: Fraction
    cycle: int
    words: str

    @property
    def lead(self) -> Fraction:
        """Seconds before the first picture needed at which the filters have to start."""
        return 2 * max(2, self.cycle) / self.rate


class _Look(NamedTuple):
    """Measures of a frame and the one before: how much each field changed, and the combing of the three ways to weave
    their fields (its own two; its top with the bottom before; the top before with its bottom)."""

    number: int
    top: float
    bottom: float
    own: float
    top_here: float
    bottom_here: float


def _verdict(looks: Sequence[_Look]) -> str:
    """The verdict of one look, or of neighbouring ones taken together: still, unclear, repeat (of one field),
    progressive, interlaced, or woven (clean only with a field of the frame before).

    The two fields of a clean weave are 0 fields apart in time; those of the other two are 2 and 2 apart in progressive
    video. In interlaced video the distances are 1, 1 and 3, in progressive video with shifted fields 0, 2 and 4.
    """
    _, top, bottom, own, top_here, bottom_here = (sum(values) / len(looks) for values in zip(*looks, strict=True))
    least, most = sorted((top, bottom))
    if most < STILL:
        return "still"
    if least < 0.3 * most:
        return "repeat"
    near, far = sorted((top_here, bottom_here))
    if max(far, own) - min(near, own) < max(0.1 * max(far, own), 0.05):
        return "unclear"
    if own < near:
        return "progressive" if near - own > 0.6 * (far - own) else "interlaced"
    return "woven" if own - near > 0.38 * (max(far, own) - near) else "interlaced"


def find(info: VideoInfo, ticks: NDArray[np.int64]) -> Scan:
    """Find the scan of ``info``, whose pictures are shown at ``ticks`` (increasing, in its time base).

    Decodes some eighty frames if the file is flagged interlaced, and sixteen or more at 29.97 fps, which may be film
    whatever the flags say.
    """
    if info.images or info.height > TALLEST or info.height < 32 or not info.format.name.startswith("yuv"):
        return PROGRESSIVE
    if info.vfr:
        if _film_by_flags(ticks, info.time_base):
            return Scan(Kind.FILM_FLAGS)
        if not info.interlaced:
            return PROGRESSIVE
    elif not info.interlaced and abs(info.frame_rate / VIDEO_RATE - 1) > Fraction(1, 5000):
        return PROGRESSIVE
    scans = []
    for looks in _runs(info):
        scan = _judge(looks, info.frame_rate)
        if scan is not None:
            scans.append(scan)
        if scan == PROGRESSIVE and not info.interlaced:
            return PROGRESSIVE  # as flagged: further places would take longer than they are worth
    if not info.interlaced and ({scan.kind for scan in scans} != {Kind.INTERLACED} or len(set(scans)) > 1):
        # scrolling by a row per frame looks woven too: only repeated fields, or all places, overrule the flag
        scans = [scan if scan.kind is Kind.FILM else PROGRESSIVE for scan in scans]
    if any(scan.kind is Kind.EURO_FILM for scan in scans):  # parts of its cycle alone look like these
        parts = (Kind.PROGRESSIVE, Kind.SHIFTED)
        scans = [dataclasses.replace(scan, kind=Kind.EURO_FILM) if scan.kind in parts else scan for scan in scans]
    if not scans:
        return Scan(Kind.INTERLACED if info.interlaced else Kind.PROGRESSIVE)
    kinds = Counter(scan.kind for scan in scans)
    kind, _ = kinds.most_common(1)[0]
    if len(kinds) > 1 and (kinds[kind] <= len(scans) / 2 or kind is Kind.PROGRESSIVE):
        # no kind prevails, or it would leave the other parts combed: to treat each field as a moment is always right
        others = [other for other in kinds if other is not Kind.PROGRESSIVE]
        kind = others[0] if len(others) == 1 and kinds[others[0]] >= len(scans) / 2 else Kind.INTERLACED
    orders = Counter(scan.top_first for scan in scans if scan.top_first is not None)
    return Scan(kind, orders.most_common(1)[0][0] if orders else None, len(kinds) > 1)


def treated(info: VideoInfo, mode: str, *, interpolate: bool) -> VideoInfo:
    """``info`` as the video will be after treatment ``mode`` (one of MODES), with that treatment.

    "auto" makes two moments of the fields of a frame only to ``interpolate``, and else keeps the frame rate. Raises
    OptionError for film in a video of variable rate.
    """
    scan = info.scan
    film = scan.kind in (Kind.FILM, Kind.EURO_FILM, Kind.SHIFTED)
    if mode == "auto":
        mode = "film" if film or scan.kind is Kind.FILM_FLAGS else "off"
        if scan.kind is Kind.INTERLACED:
            mode = "fields" if interpolate else "frames"
    if mode == "off" or info.images:
        return info
    parity = {None: "auto", True: "tff", False: "bff"}[scan.top_first]
    count, rate, cycle = info.frame_count, info.frame_rate, 0
    filters: tuple[tuple[str, str], ...]
    if mode == "film":
        if scan.kind is Kind.FILM_FLAGS:
            rate, filters = FILM_RATE, ()
            words = f"{scan}: shown at its own {float(rate):.6g} fps"
        elif info.vfr:
            raise OptionError("--deinterlace film needs a constant frame rate; this video has a variable one")
        else:
            cycle = {Kind.SHIFTED: 0, Kind.EURO_FILM: 25}.get(scan.kind, 5)
            rate = rate * (cycle - 1) / cycle if cycle else rate
            count = math.ceil(count * (cycle - 1) / cycle) if cycle else count
            filters = (
                ("fieldmatch", f"order={parity}:combmatch=full:cthresh=12"),
                ("bwdif", "mode=send_frame:deint=interlaced"),
            )
            words = f"{scan.kind if not film else scan}: the film's own frames, {float(rate):.6g} fps"
    else:
        filters = (("bwdif", f"mode=send_{mode.removesuffix('s')}:parity={parity}:deint=all"),)
        if mode == "fields":
            rate, count = 2 * rate, 2 * count
        became = "each field a moment of its own" if mode == "fields" else "frames made progressive"
        words = f"{scan}: {became}, {float(rate):.6g} fps (bwdif)"
    treatment = Treatment(filters, info.frame_rate, info.start - info.origin, info.time_base if info.vfr else
                          1 / info.frame_rate, cycle, words)  # fmt: skip
    vfr = info.vfr and mode != "film"
    return dataclasses.replace(
        info, frame_rate=rate, frame_count=count, vfr=vfr, treatment=treatment,
        header_frames=round(Fraction(info.header_frames * count, info.frame_count)),
        duration=info.duration if vfr else count / rate)  # fmt: skip


def treat(
    treatment: Treatment, pictures: Iterator[tuple[Fraction | None, Any]]
) -> Iterator[tuple[Fraction | None, Any]]:
    """Apply ``treatment`` to PyAV pictures, each with its time (seconds by the job's clock; None: a frame after the
    last). The times of the results are exact."""
    if not treatment.filters:
        return pictures
    filtered = _filtered(treatment, pictures)
    return _decimated(treatment, filtered) if treatment.cycle else filtered


def _filtered(treatment: Treatment, pictures: Iterator[tuple[Fraction | None, Any]]) -> Iterator[tuple[Fraction, Any]]:
    graph: Any = None
    shape: tuple[Any, ...] = ()
    place = -round(1 / (treatment.tick * treatment.rate))

    def pull() -> Iterator[tuple[Fraction, Any]]:
        while True:
            try:
                picture = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield treatment.first + picture.pts * picture.time_base, picture

    for time, picture in pictures:
        if time is None:
            place += round(1 / (treatment.tick * treatment.rate))
        else:
            place = round((time - treatment.first) / treatment.tick)
        now = (picture.width, picture.height, picture.format.name)
        if now != shape:
            if graph is not None:
                graph.push(None)
                yield from pull()
            graph, shape = _graph(treatment, *now), now
        picture.pts, picture.time_base, picture.duration = place, treatment.tick, 0  # it is shown until the next
        graph.push(picture)
        yield from pull()
    if graph is not None:
        graph.push(None)
        yield from pull()


def _graph(treatment: Treatment, width: int, height: int, format: str) -> Any:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("buffer", f"video_size={width}x{height}:pix_fmt={format}:time_base={treatment.tick}:"
                            f"frame_rate={treatment.rate}:pixel_aspect=1/1"),
        *(graph.add(name, arguments) for name, arguments in treatment.filters),
        graph.add("format", format),
        graph.add("buffersink"),
    ).configure()  # fmt: skip
    return graph


def _decimated(treatment: Treatment, pictures: Iterator[tuple[Fraction, Any]]) -> Iterator[tuple[Fraction, Any]]:
    """Drops the repeated frame of every cycle, and puts the others at their times in the film.

    ffmpeg's ``decimate`` remembers nothing from one cycle to the next: in a film drawn on twos, where two or three of
    five frames repeat the one before, it may drop the wrong one, and it keeps the repeat in a last, incomplete cycle.
    """
    cycle, rate = treatment.cycle, treatment.rate
    repeat: int | None = None  # its place in the cycle, which rarely changes
    level = 0.0  # a smaller change is a repeat
    before: Luma | None = None
    held: list[tuple[int, float, Any]] = []  # (place in the cycle, change from the frame before, picture)
    here = 0

    def emptied() -> Iterator[tuple[Fraction, Any]]:
        nonlocal repeat, level
        changes = {place: change for place, change, _ in held}
        whole = len(held) == cycle
        if whole:
            known = [change for change in changes.values() if change < math.inf]
            low, high = min(known), max(known)
            level = max(1.5 * low, low + 0.1 * (high - low))
        repeats = [place for place in changes if changes[place] <= level]
        if repeat not in repeats and (whole or repeat is None or repeat in changes):
            missing = [place for place in range(cycle) if place not in changes]
            repeat = _longest(repeats) if repeats else missing[0]
        for place, _, picture in held:
            if place != repeat:
                drawn = place - (place > (cycle if repeat is None else repeat))
                yield treatment.first + (here * cycle + drawn * Fraction(cycle, cycle - 1)) / rate, picture
        held.clear()

    for time, picture in pictures:
        number, place = divmod(round((time - treatment.first) * rate), cycle)
        if number != here and held:
            yield from emptied()
        here = number
        luma = _luma(picture)
        same = before is not None and before.shape == luma.shape
        held.append((place, _change(before, luma) if before is not None and same else math.inf, picture))
        before = luma
    if held:
        yield from emptied()


def _longest(places: Sequence[int]) -> int:
    """The start of the longest run of neighbours: the drawing that is shown longest can spare a frame."""

    def length(place: int) -> int:
        return 1 + length(place + 1) if place in places else 0

    return max(places, key=length)


def _change(before: Luma, after: Luma) -> float:
    """The change of the block that changed most, since moving objects may be small."""
    rows, columns = (max(1, side // 16) for side in after.shape)
    height, width = rows * (after.shape[0] // rows), columns * (after.shape[1] // columns)
    apart = cv2.absdiff(after, before)[:height, :width]
    return float(apart.reshape(height // rows, rows, width // columns, columns).mean((1, 3)).max())


def _luma(picture: Any) -> Luma:
    """(height, some columns) uint8: every row of the luma, and a subset of its columns."""
    plane, deep = picture.planes[0], picture.format.components[0].bits
    rows: NDArray[Any] = np.frombuffer(plane, np.uint8)[: picture.height * plane.line_size].reshape(picture.height, -1)
    step = max(1, picture.width // COLUMNS)
    if deep > 8:
        rows = rows.view(np.uint16) >> (deep - 8)
    return np.ascontiguousarray(rows[:, : picture.width : step], np.uint8)


def _film_by_flags(ticks: NDArray[np.int64], time_base: Fraction) -> bool:
    """Whether frames last two and three fields of 59.94 in turn, as those of film with repeat-field flags."""
    if len(ticks) < 5:
        return False
    lengths = np.diff(ticks) * float(time_base * 60000 / 1001)
    fields = np.rint(lengths)
    if np.abs(lengths - fields).max() > 0.15 or not np.isin(fields, (2, 3)).all():
        return False
    return bool(np.abs(np.diff(fields)).mean() > 0.95 and abs(fields.mean() - 2.5) < 0.5 / len(fields) + 0.01)


def _runs(info: VideoInfo) -> Iterator[list[_Look]]:
    """Looks at runs of frames, at places spread over the file, or over its beginning if it has few keyframes."""
    with open_container(info.path) as container:
        video = container.streams[info.stream]
        decoder = video_decoder(video)
        last = -math.inf
        for k in range(PLACES):
            if k:
                where = info.start + info.duration * Fraction(2 * k - 1, 2 * PLACES - 2)
                try:
                    container.seek(int(where / info.time_base), stream=video)
                except av.error.FFmpegError:
                    return
                decoder.flush_buffers()
            looks, newest = [], last
            before: Luma | None = None
            number = 0
            for picture in _decoded(container, video, decoder):
                stamp = math.inf if picture.pts is None else picture.pts
                if stamp <= last:
                    continue
                newest = max(newest, stamp) if stamp < math.inf else newest
                luma = _luma(picture)
                luma = luma[: luma.shape[0] // 2 * 2]
                if before is not None and before.shape == luma.shape:
                    looks.append(_look(number, before, luma))
                before, number = luma, number + 1
                if number > (LONG_RUN if info.interlaced else RUN):
                    break
            last = newest
            yield looks


def _decoded(container: Any, video: Any, decoder: Any) -> Iterator[Any]:
    try:
        for packet in container.demux(video):
            try:
                yield from decoder.decode(packet)
            except av.error.FFmpegError:
                continue  # damage is for probe and decode to report
    except av.error.FFmpegError:
        return


def _look(number: int, before: Luma, after: Luma) -> _Look:
    (top0, bottom0), (top1, bottom1) = (
        tuple(np.ascontiguousarray(luma[k::2]) for k in (0, 1)) for luma in (before, after)
    )
    return _Look(
        number,
        float(cv2.absdiff(top1, top0).mean()),
        float(cv2.absdiff(bottom1, bottom0).mean()),
        _combed(top1, bottom1),
        _combed(top1, bottom0),
        _combed(top0, bottom1),
    )


def _combed(top: Luma, bottom: Luma) -> float:
    """The mean by which rows of one field stand out from the rows of the other above and below them."""

    def out(middle: Luma, above: Luma, below: Luma) -> float:  # cv2.subtract saturates at zero
        under, over = cv2.subtract(cv2.min(above, below), middle), cv2.subtract(middle, cv2.max(above, below))
        return float(under.mean() + over.mean())

    return out(bottom[:-1], top[:-1], top[1:]) + out(top[1:], bottom[:-1], bottom[1:])


def _judge(looks: list[_Look], rate: Fraction) -> Scan | None:
    """The scan of a run of neighbouring frames; None where too little moves."""
    alone = [(look, _verdict([look])) for look in looks]
    moving = [(look, verdict) for look, verdict in alone if verdict not in ("still", "unclear")]
    if len(moving) < 3:
        return None
    repeats = [look for look, verdict in moving if verdict == "repeat"]
    if len(repeats) > max(1, 0.25 * len(moving)):
        # one frame of five repeats a top field, another a bottom field
        tops, bottoms = (
            Counter(look.number % 5 for look in repeats if (look.top < look.bottom) is top) for top in (True, False)
        )
        if tops and bottoms:
            (top, first), (bottom, second) = tops.most_common(1)[0], bottoms.most_common(1)[0]
            if top != bottom and first + second >= 0.75 * len(repeats):
                return Scan(Kind.FILM, _top_first(looks))
    # fine patterns that move by a row per field look clean in every other frame: so three frames are taken together
    verdicts = [_verdict(looks[k - 1 : k + 2]) for k in range(1, len(looks) - 1)]
    count = Counter(verdict for verdict in verdicts if verdict not in ("still", "unclear", "repeat"))
    if count.total() < 3:
        return None
    share = {verdict: count[verdict] / count.total() for verdict in ("woven", "progressive", "interlaced")}
    order = _top_first([look for look, verdict in moving if verdict in ("interlaced", "woven")])
    if abs(rate - 25) < Fraction(1, 20) and min(share["woven"], share["progressive"]) > 0.2 > share["interlaced"]:
        return Scan(Kind.EURO_FILM, order)
    if share["woven"] > 0.5:
        return Scan(Kind.SHIFTED, order)
    return Scan(Kind.INTERLACED, order) if share["interlaced"] > 0.5 else PROGRESSIVE


def _top_first(looks: list[_Look]) -> bool | None:
    """If the top field is the earlier one, it goes better with the bottom field before it than vice versa."""
    lead = sum(look.bottom_here - look.top_here for look in looks)
    return None if lead == 0 else lead > 0
