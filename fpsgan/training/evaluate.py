"""How good a network is: frames hidden and rebuilt, blurred pictures made sharp again, scored against the truth.

    from fpsgan.training.evaluate import evaluate, table
    print(table(evaluate(["clips/"], weights=["interpolator-base", "runs/mine/interpolator.safetensors"])))

Interpolators are asked for the frames that lie between every so-many-th frame of a video, a Lottie animation or a
sequence of a data set (of a triplet: for the middle one), at the moments that these really have. Deblurring networks
are given the pairs of a data set, the mean of seven frames of its sequences where it has no pairs, the means of three,
five and seven frames of videos, and photos shaken on purpose: six paths of 5 to 21 px each, and the photo as it is,
which should come back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deblur import Deblurrer
from deblur.blur import convolve, path_kernel, sensor, shake_path
from fpsgan import __version__
from fpsgan import weights as weights_store
from fpsgan.errors import InputError, OptionError, OutputError, SetupError
from fpsgan.interpolator import Interpolator
from fpsgan.runtime import library_errors, pick_device, pick_dtype
from fpsgan.stages.scenes import SceneSettings, related
from fpsgan.stages.timeline import Relation
from fpsgan.threads import copies
from fpsgan.training.build import VIDEOS
from fpsgan.training.data import PICTURES, files_below, read_photo
from fpsgan.training.deblur_data import expose
from fpsgan.training.lottie import Animation, read_lottie
from fpsgan.training.manifest import MANIFEST, Clip, read_manifest
from fpsgan.training.metrics import Vmaf, flicker, psnr, ssim, vmaf_ffmpeg
from fpsgan.training.peers import PEERS, Filler, Window, blend, by_network, hold, minterpolate, rife
from fpsgan.video.decode import decode
from fpsgan.video.fields import treated
from fpsgan.video.frame import Frame
from fpsgan.video.probe import VideoInfo, probe

if TYPE_CHECKING:
    from fpsgan.training.page import Moment

__all__ = [
    "USUAL_PEERS", "Evaluation", "Progress", "Score", "Take", "evaluate", "fillers", "rebuilt", "table", "video",
    "windows",
]  # fmt: skip

Image = NDArray[np.uint8]  # [H,W,3] RGB

USUAL_PEERS = ("hold", "blend", "minterpolate", "dis")
BEST = 60.0  # dB of a picture rebuilt without error
UNEVEN = 0.05  # of the time between the frames that stay
SIDE = 512  # px, the short side of animations
METRICS = {"psnr": "PSNR, dB", "ssim": "SSIM", "vmaf": "VMAF", "flicker": "flicker"}
LISTED = 40  # clips of a set that the table names one by one
SHOWN = 10  # clips on the page

EXTENTS = (5, 8, 11, 14, 17, 21)  # px, of the paths of a shaken camera,
WANDER = (0.0, 0.3, 0.8, 0.0, 0.3, 0.8)  # and how crooked they are: 0 is straight
EXPOSED = 7  # frames of a sequence that add up to a blurred picture
EXPOSURES = (3, 5, 7)  # of a video


@dataclass(frozen=True)
class Take:
    """Frames in a row, each with its relation to the one before, to be read any number of times. `count` may be a
    guess."""

    group: str  # the benchmark, "" for single files
    name: str
    count: int
    frames: Callable[[], Iterator[tuple[Frame, Relation]]]


@dataclass
class Score:
    """One picture by one method. PSNR is plain RGB in dB, at most 60; SSIM is that of Wang et al. 2004, on luma; VMAF
    that of the picture in its sequence; flicker that of the stretch it stands in (see `metrics`). None: not measured.
    """

    set: str
    clip: str
    frame: int  # its number in the clip; of a shaken photo: the length of the path in px
    method: str
    psnr: float
    ssim: float
    flicker: float | None = None
    vmaf: float | None = None


Figures = dict[str, float]  # METRICS that were measured, and "images"


@dataclass(frozen=True)
class Evaluation:
    """Means by set and method: over the images of a clip first (`clips`), then over clips (`sets`).

    `still`: images that were passed over because nothing changes around them, `uneven`: because source frames are
    repeated among them now and then. Repeats themselves are left out before anything is counted.
    """

    sets: dict[str, dict[str, Figures]]
    clips: dict[str, dict[str, dict[str, Figures]]]
    images: list[Score]
    still: int
    uneven: int
    methods: dict[str, str]  # method → what it is
    device: str
    version: str = __version__


@dataclass(frozen=True)
class Progress:
    """Images scored of about `total`; images a second; seconds left."""

    done: int
    total: int
    rate: float
    eta: float


@library_errors()
def evaluate(
    places: Sequence[str | Path],
    *,
    weights: Sequence[str | Path] = ("interpolator-base",),
    peers: Sequence[str] | None = None,
    every: Sequence[int] = (2, 4),
    split: str | None = None,
    limit: int = 0,
    vmaf: bool | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    half: bool | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Score networks, all of one kind, and `peers` on `places`.

    places: for interpolators videos, Lottie files, folders of them or of numbered pictures; for deblurring photos,
    videos and folders of them; for both, data sets (folders with a manifest), of which `split` is taken: by default
    test where there is one, else val. peers: of interpolators, see `PEERS`; None is all that are quick and always
    there. every: how many frames apart the frames are that stay, 2 for half the rate, 8 for X-TEST. limit: images
    of a clip and set at most, from its start, but whole gaps between frames that stay; 0 is all. vmaf: None is
    where an ffmpeg here has libvmaf. output: a folder that gets table.md, results.json and page.html: the
    tables and, of the ten clips with the worst moments of the first network, curves and the pictures of that moment.
    half: see `runtime.pick_dtype`.

    Memory does not grow with the length of a video, but for about a kilobyte an image of figures. Raises OptionError
    for values that make no sense, InputError for what cannot be read or has nothing to score, SetupError for a peer
    that is not installed, WeightsError, OutputError.
    """
    kinds = {weights_store.metadata(name)["architecture"] for name in weights}
    if len(kinds) != 1:
        raise OptionError(f"--weights: one kind of network at a time, not {len(kinds)} ({', '.join(sorted(kinds))})")
    if not every or min(every) < 2:
        raise OptionError(f"--every {min(every, default=0)}: 2 or more; with 2 every other frame is hidden")
    if limit < 0:
        raise OptionError(f"--limit {limit}: 0 (all images) or more")
    if vmaf and vmaf_ffmpeg() is None:
        raise SetupError("--vmaf: no ffmpeg here has the libvmaf filter; put one that has on PATH")
    where = pick_device(device)
    dtype = pick_dtype(where, half)
    folder = _folder(output)
    use_vmaf = vmaf if vmaf is not None else vmaf_ffmpeg() is not None
    run = _Run(limit, use_vmaf, folder, on_progress)
    paths = [Path(place) for place in places]
    names = [str(name) for name in weights]
    files = {name: weights_store.bundled().get(name, Path(name)) for name in names}
    methods = {name: f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" for name, file in files.items()}
    if kinds == {"interpolator"}:
        others = USUAL_PEERS if peers is None else peers
        methods = {**dict.fromkeys(others, "peer"), **methods}
        takes = [take for place in paths for take in _takes(place, split, on_note)]
        _no_twins((take.group, take.name) for take in takes)
        run.total = sum(run.expected(take, step) for take in takes for step in set(every))
        found = fillers(others, names, where, dtype)
        for step in dict.fromkeys(every):
            for take in takes:
                run.interpolate(take, step, found, names[0])
    else:
        if peers:
            raise OptionError(f"--peer {peers[0]}: an interpolator; deblurring is compared with the blurred picture")
        methods = {"blurred": "the input", **methods}
        cases = [case for place in paths for case in _cases(place, split, on_note)]
        _no_twins((case.group, case.name) for case in cases)
        run.total = sum(min(case.count, limit or case.count) for case in cases)
        runners = {name: _sharpener(name, where, dtype) for name in names}
        for case in cases:
            run.deblur(case, runners, names[0])
    if not run.scores:
        raise InputError(f"{', '.join(map(str, paths))}: nothing to score: too short, or nothing moves in it")
    clips, sets = _means(run.scores)
    result = Evaluation(
        sets, clips, run.scores, run.still, run.uneven, methods, f"{where} {str(dtype).removeprefix('torch.')}"
    )
    if folder is not None:
        _write(folder / "results.json", json.dumps(dataclasses.asdict(result), indent=1))
        _write(folder / "table.md", table(result) + "\n")
        _write(folder / "page.html", _page(result, run.moments, names[0]))
    return result


def _page(result: Evaluation, worst: Sequence[tuple[float, str, str, Moment]], first: str) -> str:
    """The tables, and of the clips with the worst moments of `first` the curves and that moment."""
    from fpsgan.training.page import curves, moment_text, page_text, table_text

    parts: list[Any] = ["<h1>Evaluation</h1>", *map(table_text, _tables(result))]
    for _, name, clip, moment in worst:
        scores = [score for score in result.images if (score.set, score.clip) == (name, clip)]
        psnr: dict[str, list[float]] = {}
        for score in scores:
            psnr.setdefault(score.method, []).append(score.psnr)
        at = [score.frame for score in scores if score.method == first]
        title = f"{name}: {clip}"
        parts += [f"<h2>{html.escape(title)}</h2>", curves(psnr, at, "frame", marks=[moment], ours=first)]
        parts.append(moment_text(moment, f"frame {moment.at:g}, the worst", first, "truth"))
    return page_text("fpsGAN: evaluation", parts)


def table(result: Evaluation) -> str:
    """The means as Markdown: each set by method, then the PSNR of each clip, where a set has several, up to 40."""
    blocks = [_markdown(rows) for rows in _tables(result)]
    if result.still:
        blocks.append(f"{result.still} images were passed over: nothing changes around them.")
    if result.uneven:
        blocks.append(f"{result.uneven} images were passed over: frames are repeated among them now and then.")
    return "\n\n".join(blocks)


def _tables(result: Evaluation) -> Iterator[list[list[str]]]:
    for name, methods in result.sets.items():
        clips = result.clips[name]
        shown = [metric for metric in METRICS if any(metric in figures for figures in methods.values())]
        images = next(iter(methods.values()))["images"]
        rows = [[f"{name}: {images:g} images of {len(clips)}", *(METRICS[metric] for metric in shown)]]
        rows += [
            [method, *(f"{figures[metric]:.{4 if metric == 'ssim' else 2}f}" for metric in shown)]
            for method, figures in methods.items()
        ]
        yield rows
        if 1 < len(clips) <= LISTED:
            rows = [["PSNR, dB", *methods]]
            rows += [[clip, *(f"{found[method]['psnr']:.2f}" for method in methods)] for clip, found in clips.items()]
            yield rows


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        " | ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])


# --- what is interpolated ------------------------------------------------------------------------------------


def video(
    info: VideoInfo,
    on_note: Callable[[str], None] = lambda text: None,
    *,
    start: Fraction | None = None,
    end: Fraction | None = None,
) -> Iterator[tuple[Frame, Relation]]:
    """Every frame with start ≤ pts < end as a job sees it. Streams. InputError at a damaged place."""
    return related(decode(info, start=start, end=end, report=on_note), SceneSettings())


def shot(images: Iterable[Image]) -> Iterator[tuple[Frame, Relation]]:
    """Pictures as the frames of one shot, a second apart."""
    return ((Frame.of_image(image, Fraction(number)), Relation.MOTION) for number, image in enumerate(images))


def windows(frames: Iterable[tuple[Frame, Relation]], every: int) -> Iterator[Window]:
    """Every `every`-th frame of a shot and those between them, which are to be rebuilt; what is left over is not used.
    Repeats are no truth and are left out. Streams: holds `every` + 1 frames.
    """
    held: list[Frame] = []
    run, number, repeats = 0, -1, 0
    for frame, relation in frames:
        if relation is Relation.HELD:
            repeats += 1
            continue
        if relation is Relation.CUT:
            held, run, repeats = [], run + 1, 0
        number += 1
        held.append(frame)
        if len(held) == every + 1:
            window = Window(run, number - every, held[0], tuple(held[1:-1]), frame)
            times = np.array(window.times, np.float64)
            even = not repeats or np.allclose(times, np.arange(1, every) / every, atol=UNEVEN)
            still = all(
                np.array_equal(*pair) for other in held[1:] for pair in zip(held[0].planes, other.planes, strict=True)
            )
            yield window._replace(even=even, still=still)
            held, repeats = [frame], 0


def fillers(
    peers: Sequence[str], networks: Sequence[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Filler]:
    """The methods by name. OptionError for an unknown peer, SetupError for one that is not installed, WeightsError."""
    found: dict[str, Filler] = {}
    for peer in peers:
        if peer not in PEERS:
            raise OptionError(f"--peer {peer}: not known; known are {', '.join(PEERS)}")
        if peer == "dis":
            found[peer] = by_network(Interpolator().eval(), device, torch.float32)
        elif peer == "rife":
            found[peer] = rife(device)
        else:
            found[peer] = {"hold": hold, "blend": blend, "minterpolate": minterpolate}[peer]
    for name in networks:
        network = weights_store.load(name, expect="interpolator")
        assert isinstance(network, Interpolator)
        found[name] = by_network(network, device, dtype)
    return found


def rebuilt(
    windows: Iterable[Window], methods: Mapping[str, Filler], most: int | None = None
) -> Iterator[tuple[Window, dict[str, list[Image]]]]:
    """Each window, or the first `most`, and, by method, the frames in the place of the hidden ones; none where it is
    not scored. Streams: keeps the windows that a method has read ahead."""
    own, *others = copies(windows, 1 + len(methods))
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(contextlib.closing(fill(other)))
            for fill, other in zip(methods.values(), others, strict=True)
        ]
        for window, *images in islice(zip(own, *made, strict=True), most):
            yield window, dict(zip(methods, images, strict=True)) if window.scored else {}


def _takes(place: Path, split: str | None, on_note: Callable[[str], None]) -> list[Take]:
    """What a file, a folder or a data set offers to an interpolator."""
    if _is_set(place):
        return [_sequence(clip) for clip in _split(place, split, on_note)]
    files = [place]
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in (*VIDEOS, ".json") and p.is_file())
    takes = []
    for file in files or [place]:  # a folder without any may be one of numbered pictures
        name = file.relative_to(place).as_posix() if file != place else file.name
        takes.append(_animation(name, file) if file.suffix.lower() == ".json" else _film(name, file, on_note))
    return takes


def _film(name: str, path: Path, on_note: Callable[[str], None]) -> Take:
    info = treated(probe(path), "auto", interpolate=False)
    return Take("", name, info.frame_count, lambda: video(info, on_note))


def _animation(name: str, path: Path) -> Take:
    return Take("", name, Animation(path).last + 1, lambda: shot(read_lottie(path, SIDE)))


def _sequence(clip: Clip) -> Take:
    return Take(_group(clip), clip.name, clip.count, lambda: shot(map(clip.read, range(clip.count))))


# --- what is deblurred ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """Pictures to be made sharp: (number, blurred, sharp). In a `sequence` each follows the one before it."""

    group: str
    name: str
    count: int
    sequence: bool
    pairs: Callable[[], Iterator[tuple[int, Image, Image]]]


def _cases(place: Path, split: str | None, on_note: Callable[[str], None]) -> list[_Case]:
    if not _is_set(place):
        files = files_below([place], (*PICTURES, *VIDEOS), "photos or videos")
        root = place if place.is_dir() else place.parent
        names = {file: file.relative_to(root).as_posix() for file in files}
        photos = (file for file in files if file.suffix.lower() not in VIDEOS)
        films = (file for file in files if file.suffix.lower() in VIDEOS)
        shaken = (_photo(number, names[file], file) for number, file in enumerate(photos))
        averaged = (_averages(names[file], file, on_note) for file in films)
        return list(chain(*shaken, *averaged))
    cases = []
    for clip in _split(place, split, on_note):
        if clip.blurred:
            cases.append(_Case(_group(clip), clip.name, clip.count, True, partial(_pairs, clip)))
        elif clip.count >= EXPOSED:
            cases.append(_Case(_group(clip), clip.name, 1, False, partial(_exposed, clip)))
    return cases


def _photo(number: int, name: str, path: Path) -> list[_Case]:
    return [
        _Case("shaken", name, len(EXTENTS), False, lambda: _shaken(number, path)),
        _Case("sharp", name, 1, False, lambda: _itself(path)),
    ]


def _shaken(seed: int, path: Path) -> Iterator[tuple[int, Image, Image]]:
    """A photo along six paths, in linear light, every other one with 1 % of noise. Seeded by its place in the list."""
    sharp = read_photo(path)
    for number, (extent, wander) in enumerate(zip(EXTENTS, WANDER, strict=True)):
        rng = np.random.default_rng([seed, number])
        blurred = convolve(sharp, path_kernel(shake_path(extent, rng, wander=wander)))
        yield extent, sensor(blurred, rng, noise=0.01 * (number % 2)), sharp


def _itself(path: Path) -> Iterator[tuple[int, Image, Image]]:
    photo = read_photo(path)
    yield 0, photo, photo


def _averages(name: str, path: Path, on_note: Callable[[str], None]) -> list[_Case]:
    info = treated(probe(path), "auto", interpolate=False)
    return [
        _Case(f"mean of {count}", name, info.frame_count // count, False, partial(_means_of, info, count, on_note))
        for count in EXPOSURES
    ]


def _means_of(info: VideoInfo, count: int, on_note: Callable[[str], None]) -> Iterator[tuple[int, Image, Image]]:
    """Each `count` frames of a shot in a row, added up, and the one in their middle; none where nothing changes."""
    held: list[Image] = []
    for number, (frame, relation) in enumerate(video(info, on_note)):
        if relation is not Relation.HELD:  # what changes in a repeat is noise
            image = frame.image
        held = [image] if relation is Relation.CUT else [*held, image]
        if len(held) == count:
            if any(not np.array_equal(held[0], other) for other in held):
                yield number - count // 2, sensor(expose(held), np.random.default_rng(0)), held[count // 2]
            held = []


def _pairs(clip: Clip) -> Iterator[tuple[int, Image, Image]]:
    for number in range(clip.count):
        yield number, clip.read_blurred(number), clip.read(number)


def _exposed(clip: Clip) -> Iterator[tuple[int, Image, Image]]:
    middle = clip.count // 2
    frames = [clip.read(middle + k - EXPOSED // 2) for k in range(EXPOSED)]
    yield middle, sensor(expose(frames), np.random.default_rng(0)), frames[EXPOSED // 2]


def _sharpener(name: str, device: torch.device, dtype: torch.dtype) -> Callable[[Image], Image]:
    deblurrer = Deblurrer(weights_store.load(name, expect="deblur"), device, dtype)

    def sharpen(image: Image) -> Image:
        done = deblurrer.sharpen(image.astype(np.float32) / np.float32(255), cautious=True)  # as by default
        return np.asarray(np.clip(np.rint(done.picture * np.float32(255)), 0, 255), np.uint8)

    return sharpen


# --- data sets -----------------------------------------------------------------------------------------------


def _is_set(place: Path) -> bool:
    return place.name == MANIFEST or (place / MANIFEST).is_file()


def _group(clip: Clip) -> str:
    return clip.subset or clip.root.resolve().name


def _split(place: Path, split: str | None, on_note: Callable[[str], None]) -> list[Clip]:
    clips = read_manifest(place)
    there = {clip.split for clip in clips}
    chosen = split or next((name for name in ("test", "val") if name in there), "test")
    found = [clip for clip in clips if clip.split == chosen]
    if not found:
        raise InputError(f"{place}: no clips in its split {chosen!r}; --split takes one of {', '.join(sorted(there))}")
    if split is None:
        on_note(f"{place}: its {chosen} split, {len(found)} clips")
    return found


# --- scoring -------------------------------------------------------------------------------------------------


class _Run:
    """What has been scored so far."""

    def __init__(self, limit: int, vmaf: bool, folder: Path | None, on_progress: Callable[[Progress], None]) -> None:
        self.limit, self.vmaf, self.folder, self.on_progress = limit, vmaf, folder, on_progress
        self.scores: list[Score] = []
        self.still = self.uneven = self.done = self.total = 0
        self.began = time.monotonic()
        self.worst: tuple[Mapping[str, Score], Mapping[str, Image], Image] | None = None  # of the clip in hand
        self.moments: list[tuple[float, str, str, Moment]] = []  # PSNR, set, clip; the worst first
        if folder is not None:
            import fpsgan.training.page  # noqa: F401 (says now, not after hours, if bokeh is missing)

    def expected(self, take: Take, every: int) -> int:
        whole = max(0, take.count - 1) // every * (every - 1)
        return min(whole, -(-self.limit // (every - 1)) * (every - 1)) if self.limit else whole

    def interpolate(self, take: Take, every: int, methods: Mapping[str, Filler], first: str) -> None:
        """All windows of a take, as the set of this rate."""
        name = f"{take.group} ×{every}".strip()
        most = -(-self.limit // (every - 1)) if self.limit else None
        shot = -1
        with _Vmafs(self.vmaf and take.count > every + 1) as judges:
            for window, made in rebuilt(windows(take.frames(), every), methods, most):
                self._tell(len(window.hidden))
                if not window.scored:
                    self.still += len(window.hidden) * window.even
                    self.uneven += len(window.hidden) * (not window.even)
                    continue
                image0, *truths, image1 = (frame.image for frame in (window.frame0, *window.hidden, window.frame1))
                if window.run != shot:
                    judges.add(dict.fromkeys(methods, image0), image0, {})
                    shot = window.run
                steady = {
                    method: flicker((image0, *images, image1), (image0, *truths, image1))
                    for method, images in made.items()
                }
                for k, truth in enumerate(truths):
                    now = {method: images[k] for method, images in made.items()}
                    at = name, take.name, window.number + 1 + k
                    new = {
                        method: self._score(*at, method, image, truth, steady[method]) for method, image in now.items()
                    }
                    judges.add(now, truth, new)
                    self._keep_worst(new, now, truth, first)
                judges.add(dict.fromkeys(methods, image1), image1, {})
        self._show(name, take.name, first)

    def deblur(self, case: _Case, runners: Mapping[str, Callable[[Image], Image]], first: str) -> None:
        """All pictures of a case."""
        before: dict[str, Image] = {}
        truth_before: Image | None = None
        with _Vmafs(self.vmaf and case.sequence and case.count > 1) as judges:
            for number, blurred, sharp in islice(case.pairs(), self.limit or None):
                made = {"blurred": blurred, **{name: sharpen(blurred) for name, sharpen in runners.items()}}
                new = {}
                for method, image in made.items():
                    steady = None
                    if case.sequence and truth_before is not None:
                        steady = flicker((before[method], image), (truth_before, sharp))
                    new[method] = self._score(case.group, case.name, number, method, image, sharp, steady)
                judges.add(made, sharp, new)
                self._keep_worst(new, made, sharp, first)
                before, truth_before = made, sharp
                self._tell(1)
        self._show(case.group, case.name, first)

    def _score(
        self, group: str, clip: str, frame: int, method: str, image: Image, truth: Image, steady: float | None
    ) -> Score:
        score = Score(group, clip, frame, method, min(BEST, psnr(image, truth)), ssim(image, truth), steady)
        self.scores.append(score)
        return score

    def _tell(self, images: int) -> None:
        self.done += images
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        self.on_progress(Progress(self.done, self.total, rate, max(0, self.total - self.done) / rate))

    def _keep_worst(self, scores: Mapping[str, Score], images: Mapping[str, Image], truth: Image, first: str) -> None:
        if self.folder is not None and (self.worst is None or scores[first].psnr < self.worst[0][first].psnr):
            self.worst = scores, images, truth

    def _show(self, name: str, clip: str, first: str) -> None:
        """The worst moment of the clip in hand goes on the page, if it is one of the worst of all."""
        if self.worst is None:
            return
        from fpsgan.training.page import Moment, pictures

        (scores, images, truth), self.worst = self.worst, None
        least = scores[first].psnr
        if len(self.moments) < SHOWN or least < self.moments[-1][0]:
            psnr = {method: score.psnr for method, score in scores.items()}
            moment = Moment(scores[first].frame, psnr, pictures(images, truth, first))
            self.moments = sorted([*self.moments, (least, name, clip, moment)], key=lambda one: one[0])[:SHOWN]


class _Vmafs:
    """VMAF of all methods, side by side; nothing unless `on`. The scores are filled in at the end."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self.judges: dict[str, Vmaf] = {}
        self.waiting: dict[str, list[Score | None]] = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> _Vmafs:
        return self

    def add(self, images: Mapping[str, Image], truth: Image, scores: Mapping[str, Score]) -> None:
        """The next picture of each method; those without a score only lead on to the others."""
        for method, image in images.items() if self.on else ():
            if method not in self.judges:
                self.judges[method] = self.stack.enter_context(Vmaf(*truth.shape[:2]))
            self.judges[method].add(image, truth)
            self.waiting.setdefault(method, []).append(scores.get(method))

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with self.stack:
            for method, judge in self.judges.items() if kind is None else ():
                for score, value in zip(self.waiting[method], judge.scores(), strict=True):
                    if score is not None:
                        score.vmaf = value


def _means(scores: Sequence[Score]) -> tuple[dict[str, dict[str, dict[str, Figures]]], dict[str, dict[str, Figures]]]:
    """By set, clip and method; by set and method."""
    sorted_by: dict[str, dict[str, dict[str, list[Score]]]] = {}
    for score in scores:
        sorted_by.setdefault(score.set, {}).setdefault(score.clip, {}).setdefault(score.method, []).append(score)
    clips = {
        name: {clip: {method: _figures(some) for method, some in found.items()} for clip, found in by_clip.items()}
        for name, by_clip in sorted_by.items()
    }
    sets: dict[str, dict[str, Figures]] = {}
    for name, by_clip in clips.items():
        for method in next(iter(by_clip.values())):
            all_of = [found[method] for found in by_clip.values()]
            sets.setdefault(name, {})[method] = {
                "images": sum(figures["images"] for figures in all_of),
                **{
                    metric: float(np.mean([figures[metric] for figures in all_of if metric in figures]))
                    for metric in METRICS
                    if any(metric in figures for figures in all_of)
                },
            }
    return clips, sets


def _no_twins(names: Iterable[tuple[str, str]]) -> None:
    for twin, often in Counter(names).items():
        if often > 1:
            called = " ".join(twin).strip()
            raise OptionError(f"{often} clips would be called {called}: name the one folder that holds them all")


def _figures(scores: Sequence[Score]) -> Figures:
    found: Figures = {"images": len(scores)}
    for metric in METRICS:
        values = [value for score in scores if (value := getattr(score, metric)) is not None]
        if values:
            found[metric] = float(np.mean(values))
    return found


def _folder(output: str | Path | None) -> Path | None:
    if output is None:
        return None
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error})") from error
    if (folder / "results.json").exists():
        raise OutputError(f"{folder}: holds the results of another evaluation; name another folder")
    return folder


def _write(path: Path, content: str | bytes) -> None:
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
