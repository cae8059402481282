"""The command line: reads options, calls the library, prints. Nothing else in fpsGAN prints."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import av
import torch
import typer

from fpsgan import __version__, weights
from fpsgan.demo import make_demo
from fpsgan.errors import FpsganError, OptionError, OutputError
from fpsgan.interpolator import kernels
from fpsgan.photo import compare as write_sheets
from fpsgan.photo import deblur_photos
from fpsgan.pipeline import Estimate, Options, Progress, Result, enhance, estimate, peak_rss
from fpsgan.runtime import pick_device, pick_dtype
from fpsgan.scene import SCENE_THRESHOLD
from fpsgan.stream import StreamReport, stream
from fpsgan.video.encode import CODECS, CONTAINERS, EncodeOptions
from fpsgan.video.ffmpeg import encoders, ffmpeg_path, ffmpeg_version
from fpsgan.video.fields import Scan
from fpsgan.video.photo import KINDS, kind_of, name_for
from fpsgan.video.probe import VideoInfo, image_files, probe

if TYPE_CHECKING:  # training needs packages of its own, and seconds to load them
    from fpsgan.training.build import Progress as BuildProgress
    from fpsgan.training.build import Summary as BuildSummary
    from fpsgan.training.evaluate import Progress as EvaluateProgress
    from fpsgan.training.train import Progress as TrainProgress

T = TypeVar("T")

app = typer.Typer(
    help="Turns a shaky, blurred or choppy video into a sharp, smooth one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="The weights that come with fpsGAN.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
dataset_app = typer.Typer(help="Training data from your own footage.", no_args_is_help=True)
app.add_typer(dataset_app, name="dataset")

NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "59.94": 60, "119.88": 120}


def parse_rate(text: str) -> Fraction:
    """ "60", "60000/1001", "2.5", or an NTSC rate as people write it (23.976, 29.97, 59.94), exactly."""
    if text in NTSC:
        return Fraction(NTSC[text] * 1000, 1001)
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise OptionError(f"{text!r}: not a number of frames per second; write 60, 59.94 or 60000/1001") from error


def parse_time(text: str) -> Fraction:
    """Seconds ("12.5") or a clock time ("1:02:03.5"), exactly."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise OptionError(f"{text!r}: not a time; write seconds (12.5) or h:mm:ss (1:02:03.5)")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def _option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Sources = Annotated[list[Path] | None, typer.Argument(help="Videos, GIFs, or folders of images.", show_default=False)]
SourceOption = Annotated[Path | None, _option("-i", "--input", help="The same, as an option.")]
Target = Annotated[
    Path | None, _option("-o", "--output", help="Where to put it; the suffix says what kind (none: a folder of PNG).")
]
Fps = Annotated[str | None, _option("--fps", help="Frame rate to reach: 60, 59.94, 60000/1001. Keeps the duration.")]
Multi = Annotated[str | None, _option("--multi", help="Or a factor on the source's frame rate. Keeps the duration.")]
Slowmo = Annotated[str | None, _option("--slowmo", help="Play so many times slower; sound is stretched with it.")]
DeblurMode = Annotated[str, _option("--deblur", help="auto: blurred frames only; on: all; off.")]
Strength = Annotated[float, _option("--deblur-strength", help="0 (nothing) to 1 (all of it).")]
Start = Annotated[str | None, _option("--start", help="Begin at this time (12.5 or 0:12.5).")]
End = Annotated[str | None, _option("--end", help="Stop before this time.")]
Scene = Annotated[
    float,
    _option(
        "--scene-threshold",
        help="Likeness of two frames, as a share of that of those before, below which a scene begins; 0: no cuts.",
    ),
]
Dedup = Annotated[str, _option("--dedup", help="Re-space repeated drawings of animation: auto, on or off.")]
ConfidenceMap = Annotated[
    Path | None, _option("--confidence-map", help="Folder for a PNG per generated frame: black where it is a guess.")
]
Weights = Annotated[str, _option("--weights", help="Interpolator weights: a shipped name or a .safetensors file.")]
DeblurWeights = Annotated[str, _option("--deblur-weights", help="Deblurring weights, likewise.")]
Device = Annotated[str, _option("--device", help="auto, cpu, cuda, cuda:1, mps, xpu.", panel="Machine")]
Half = Annotated[
    bool | None,
    _option("--half/--no-half", help="Half precision; by default where it is faster.", panel="Machine"),
]
Tile = Annotated[
    int, _option("--tile", help="Work in tiles of so many pixels; 0: only if memory is short.", panel="Machine")
]
Codec = Annotated[str, _option("--codec", help=f"auto, {', '.join(CODECS)}.", panel="Output")]
Crf = Annotated[int | None, _option("--crf", help="The encoder's quality number; smaller is better.", panel="Output")]
PixFmt = Annotated[str | None, _option("--pix-fmt", help="Pixel format; by default the source's.", panel="Output")]
StreamIndex = Annotated[int | None, _option("--stream", help="Index of the video stream to take.", panel="Input")]
ImageRate = Annotated[str, _option("--image-rate", help="Frame rate of a folder of images.", panel="Input")]
OnError = Annotated[str, _option("--on-error", help="Damaged places: stop or conceal.", panel="Input")]
Deinterlace = Annotated[
    str, _option("--deinterlace", help="auto, fields, frames, film (undo pulldown) or off.", panel="Input")
]
Overwrite = Annotated[bool, _option("-y", "--overwrite", help="Replace an existing output.", panel="Output")]
DryRun = Annotated[bool, _option("--dry-run", help="Only tell what it would come to: frames, time, memory, size.")]
Json = Annotated[bool, _option("--json", help="Print the result as JSON on standard output.")]
Benchmark = Annotated[bool, _option("--benchmark", help="Print where the time went.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, _option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, _option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if version:
        print(f"fpsgan {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("enhance")
def enhance_command(
    sources: Sources = None,
    input: SourceOption = None,
    output: Target = None,
    deblur: DeblurMode = "auto",
    deblur_strength: Strength = 1.0,
    fps: Fps = None,
    multi: Multi = None,
    slowmo: Slowmo = None,
    start: Start = None,
    end: End = None,
    scene_threshold: Scene = SCENE_THRESHOLD,
    dedup: Dedup = "auto",
    confidence_map: ConfidenceMap = None,
    weights: Weights = Options.weights,  # type: ignore[assignment]
    deblur_weights: DeblurWeights = Options.deblur_weights,  # type: ignore[assignment]
    device: Device = "auto",
    half: Half = None,
    tile: Tile = 0,
    codec: Codec = "auto",
    crf: Crf = None,
    pix_fmt: PixFmt = None,
    stream: StreamIndex = None,
    image_rate: ImageRate = "24",
    on_error: OnError = "stop",
    deinterlace: Deinterlace = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    benchmark: Benchmark = False,
) -> None:
    """Sharpen blurred frames and raise the frame rate: both stages, the main job. Several inputs go into a folder."""
    _run_all(dict(locals()), interpolate=True)


@app.command("interpolate")
def interpolate_command(
    sources: Sources = None,
    input: SourceOption = None,
    output: Target = None,
    fps: Fps = None,
    multi: Multi = None,
    slowmo: Slowmo = None,
    start: Start = None,
    end: End = None,
    scene_threshold: Scene = SCENE_THRESHOLD,
    dedup: Dedup = "auto",
    confidence_map: ConfidenceMap = None,
    weights: Weights = Options.weights,  # type: ignore[assignment]
    device: Device = "auto",
    half: Half = None,
    tile: Tile = 0,
    codec: Codec = "auto",
    crf: Crf = None,
    pix_fmt: PixFmt = None,
    stream: StreamIndex = None,
    image_rate: ImageRate = "24",
    on_error: OnError = "stop",
    deinterlace: Deinterlace = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    benchmark: Benchmark = False,
) -> None:
    """Raise the frame rate, or slow down; source frames stay as they are. Several inputs go into a folder."""
    _run_all({**locals(), "deblur": "off"}, interpolate=True)


@app.command("deblur")
def deblur_command(
    sources: Annotated[list[Path] | None, typer.Argument(help="Videos, photos, or folders of photos.")] = None,
    input: SourceOption = None,
    output: Target = None,
    deblur: DeblurMode = "auto",
    deblur_strength: Strength = 1.0,
    start: Start = None,
    end: End = None,
    deblur_weights: DeblurWeights = Options.deblur_weights,  # type: ignore[assignment]
    device: Device = "auto",
    half: Half = None,
    tile: Tile = 0,
    codec: Codec = "auto",
    crf: Crf = None,
    pix_fmt: PixFmt = None,
    stream: StreamIndex = None,
    image_rate: ImageRate = "24",
    on_error: OnError = "stop",
    deinterlace: Deinterlace = "auto",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    json: Json = False,
    benchmark: Benchmark = False,
    compare: Annotated[
        str | None,
        _option(
            "--compare", help="Photos: sheets, beside each other the photo and what these weights (a,b) make of it."
        ),
    ] = None,
    truth: Annotated[
        Path | None, _option("--truth", help="With --compare: a folder of the sharp photos; scores.")
    ] = None,
) -> None:
    """Sharpen videos and photos; frames keep their times, photos their profile, EXIF and transparency.

    Several inputs go into a folder. A folder of photos into a folder: each photo by itself, under its own name.
    """
    given = dict(locals())
    compare, truth = given.pop("compare"), given.pop("truth")
    if compare is not None and (output is None or (output.suffix and not output.is_dir())):
        raise OptionError(f"--compare puts sheets into a folder: {output} is none; name one with -o")
    _run_all(given, interpolate=False, compare=compare, truth=truth)


def _run_all(
    given: dict[str, Any], *, interpolate: bool, compare: str | None = None, truth: Path | None = None
) -> None:
    """One job after the other; one that fails does not stop the rest, and is named at the end."""
    sources, input, output = (given.pop(name) for name in ("sources", "input", "output"))
    sources = sources or ([input] if input else [])
    if not sources:
        raise OptionError("no input: name a video, as in `fpsgan enhance clip.mp4 -o better.mp4`")
    if output is None:
        raise OptionError("no output: say where to put it with -o")
    pairs = _targets(sources, output, photos=not interpolate)
    photos = [(source, target) for source, target in pairs if not interpolate and _is_photo_job(source, target)]
    jobs: list[Callable[[], list[Any]]] = []
    if photos:
        jobs.append(lambda: _photos(photos, given, compare, truth, fail if len(pairs) > 1 else None))
    jobs += [partial(_run, *pair, given, interpolate=interpolate) for pair in pairs if pair not in photos]
    records: list[Any] = []
    failed = 0

    def fail(error: FpsganError) -> None:
        nonlocal failed
        failed += 1
        _say(f"fpsgan: {error}")

    for job in jobs:
        try:
            records += job()
        except FpsganError as error:
            if len(pairs) == 1 or isinstance(error, OptionError):
                raise
            fail(error)
    if given["json"] and records:
        single = len(pairs) == 1 and not photos
        print(json.dumps(records[0] if single else records, indent=2, default=str))
    if failed:
        raise FpsganError(f"{failed} of {len(pairs)} inputs failed, named above; the others are done")


def _targets(sources: list[Path], output: Path, *, photos: bool) -> list[tuple[Path, Path]]:
    """Each source with its target: the output itself for one, else a file of the source's name in it."""
    listed = [
        path
        for source in sources
        for path in (image_files(source) if photos and source.is_dir() and _into_folder(output) else [source])
    ]
    if len(listed) == 1 and not (photos and _into_folder(output) and kind_of(listed[0]) == "photo"):
        return [(listed[0], output)]
    if not _into_folder(output):
        raise OptionError(f"several inputs go into a folder: {output} is none; name one with -o")
    pairs = [(source, output / _name_in_folder(source, photos=photos)) for source in listed]
    doubled = {target for target in (target for _, target in pairs) if [t for _, t in pairs].count(target) > 1}
    if doubled:
        raise OptionError(f"two inputs would both become {min(doubled)}; put them into different folders")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be made ({error.strerror})") from error
    return pairs


def _into_folder(output: Path) -> bool:
    return output.is_dir() or not output.suffix


def _name_in_folder(source: Path, *, photos: bool) -> str:
    kind = kind_of(source)
    if kind == "photo" and photos:
        return name_for(source)
    if kind == "folder" or source.suffix.lower() in CONTAINERS:
        return source.name
    return f"{source.stem}.mkv"  # holds whatever the source does


def _is_photo_job(source: Path, target: Path) -> bool:
    return target.suffix.lower() in KINDS and kind_of(source) == "photo"


def _photos(
    photos: list[tuple[Path, Path]],
    given: dict[str, Any],
    compare: str | None,
    truth: Path | None,
    on_error: Callable[[FpsganError], None] | None,
) -> list[Any]:
    if given["dry_run"]:
        raise OptionError("--dry-run is for videos: a photo is done in a second or two")
    names = ("deblur", "deblur_strength", "deblur_weights", "device", "half", "tile", "overwrite")
    options = Options(**{name: given[name] for name in names})
    sources, targets = [source for source, _ in photos], [target for _, target in photos]
    if compare is None:
        results = _interruptible(lambda: deblur_photos(sources, targets, options, on_error=on_error))
        for result in results:
            _say(f"{result.target}: blur {result.score:.2f}, sharpened {100 * result.strength:.0f} %")
        return [dataclasses.asdict(result) for result in results]
    records = _interruptible(lambda: write_sheets(sources, targets[0].parent, compare.split(","), options, truth))
    if truth is not None and not given["json"]:
        print(_scores_text(records))
    return records


def _scores_text(records: list[dict[str, Any]]) -> str:
    """PSNR and SSIM as a table: a row for each picture and one for their mean, a column for each of the weights."""
    names = list(dict.fromkeys(record["weights"] for record in records))
    pictures = list(dict.fromkeys(record["picture"] for record in records))
    found = {(record["picture"], record["weights"]): record for record in records}
    for name in names:
        for score in ("psnr", "ssim"):
            mean = sum(found[picture, name][score] for picture in pictures) / len(pictures)
            found.setdefault(("mean", name), {})[score] = mean
    lines = [f"| | {' | '.join(names)} |", "|" + "---|" * (len(names) + 1)]
    for picture in [*pictures, "mean"]:
        cells = [f"{found[picture, name]['psnr']:.2f} dB, {found[picture, name]['ssim']:.4f}" for name in names]
        lines.append(f"| {picture} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _run(source: Path, target: Path, given: dict[str, Any], *, interpolate: bool) -> list[Any]:
    given = dict(given)
    on_error = given.pop("on_error")
    if on_error not in ("stop", "conceal"):
        raise OptionError(f"--on-error {on_error}: must be stop or conceal")
    dry_run, as_json, benchmark = given.pop("dry_run"), given.pop("json"), given.pop("benchmark")
    for name, parse in (("fps", parse_rate), ("multi", parse_rate), ("slowmo", parse_rate), ("start", parse_time),
                        ("end", parse_time), ("image_rate", parse_rate)):  # fmt: skip
        if given.get(name) is not None:
            given[name] = parse(given[name])
    encode = EncodeOptions(given.pop("codec"), given.pop("crf"), given.pop("pix_fmt"))
    options = Options(interpolate=interpolate, encode=encode, conceal=on_error == "conceal", **given)
    if dry_run:
        expected = _interruptible(lambda: estimate(source, target, options=options))
        if not as_json:
            print(_estimate_text(expected))
        return [dataclasses.asdict(expected)]
    meter = _Meter()
    result = _interruptible(lambda: enhance(source, target, options=options, on_progress=meter, on_note=_say))
    meter.end()
    if not as_json:
        _say(_result_text(result))
    if benchmark:
        _say(
            f"{result.seconds:.2f} s in all, {result.frames_out / result.seconds:.2f} output frames/s, "
            f"networks {100 * result.network_seconds / result.seconds:.0f} % of the time, "
            f"peak memory {_size_text(peak_rss())}"
        )
    return [dataclasses.asdict(result)]


@dataset_app.command("build")
def dataset_build_command(
    footage: Annotated[list[Path], typer.Argument(help="Videos, and folders that are searched for videos.")],
    output: Annotated[Path, _option("-o", "--output", help="Folder for the data set.")],
    min_fps: Annotated[
        str | None, _option("--min-fps", help="Leave out footage with fewer new pictures a second (48).")
    ] = None,
    length: Annotated[int | None, _option("--length", help="Frames of a sequence (13).")] = None,
    tile: Annotated[int | None, _option("--tile", help="Side of a tile, px (320); smaller pictures: whole.")] = None,
    tiles: Annotated[int | None, _option("--tiles", help="Tiles of the same frames, at most (2).")] = None,
    per_source: Annotated[
        int | None, _option("--per-source", help="Sequences of one video, at most (500); 0: no limit.")
    ] = None,
    max_blur: Annotated[
        float | None, _option("--max-blur", help="Blur score from which a tile is left out (1.75); 2: none is.")
    ] = None,
    val: Annotated[float | None, _option("--val", help="Share of the videos to validate on (0.1).")] = None,
    test: Annotated[float | None, _option("--test", help="Share of the videos to test on (0.05).")] = None,
    licence: Annotated[str | None, _option("--licence", help="Of what no SOURCES.tsv beside it lists.")] = None,
    native: Annotated[bool, _option("--native", help="Tiles in the footage's own pixels; otherwise shrunk.")] = False,
    lossless: Annotated[bool, _option("--lossless", help="PNG instead of JPEG: five times as large.")] = False,
    pack_size: Annotated[float | None, _option("--pack-size", help="MiB that a pack may have (512).")] = None,
    seed: Annotated[int | None, _option("--seed", help="Of tiles, scales and split (0).")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a training set from high frame rate footage: cut, cleaned, measured, split by source.

    Stopped and started again, it goes on. Exit code 3: done, but some files could not be read.
    """
    from fpsgan.training.build import BuildOptions, build

    given = {
        "length": length, "tile": tile, "tiles": tiles, "per_source": per_source, "max_blur": max_blur, "val": val,
        "test": test, "licence": licence, "pack_size": pack_size, "seed": seed,
        "min_fps": None if min_fps is None else parse_rate(min_fps),
    }  # fmt: skip
    options = BuildOptions(native=native, lossless=lossless, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    meter = _BuildMeter()
    try:
        summary = build(footage, output, options=options, overwrite=overwrite, on_progress=meter, on_note=_say)
    except KeyboardInterrupt:
        _say("\nstopped; the same command goes on behind the last finished video")
        sys.exit(130)
    meter.end()
    _print_json(summary) if json else print(_build_text(summary))
    if summary.unreadable:
        raise typer.Exit(3)


@app.command("train")
def train_command(
    network: Annotated[str, typer.Argument(help="interpolator or deblur.")],
    output: Annotated[Path, _option("-o", "--output", help="Folder of the run: weights, checkpoint, log, events.")],
    config: Annotated[Path | None, _option("--config", help="A TOML file; the flags below overrule it.")] = None,
    data: Annotated[list[Path] | None, _option("--data", help="A data set (fpsgan dataset build); repeatable.")] = None,
    photos: Annotated[list[Path] | None, _option("--photos", help="Photos or folders of them; repeatable.")] = None,
    animations: Annotated[
        list[Path] | None, _option("--animations", help="Lottie files or folders of them; repeatable.")
    ] = None,
    fine_tune: Annotated[str | None, _option("--fine-tune", help="Start from these weights: a name or a file.")] = None,
    steps: Annotated[int | None, _option("--steps", help="Length of the run in steps.")] = None,
    max_minutes: Annotated[
        float | None, _option("--max-minutes", help="Length in minutes; with --steps, when to interrupt.")
    ] = None,
    resume: Annotated[bool, _option("--resume", help="Go on with the run in the output folder.")] = False,
    batch: Annotated[int | None, _option("--batch", help="Samples per step and process.")] = None,
    crop: Annotated[int | None, _option("--crop", help="Side of a sample, px.")] = None,
    lr: Annotated[float | None, _option("--lr", help="Highest learning rate.")] = None,
    adversarial: Annotated[
        float | None, _option("--adversarial", help="Share of the run, at its end, against a discriminator.")
    ] = None,
    seed: Annotated[int | None, _option("--seed", help="Of samples and weights.")] = None,
    workers: Annotated[int | None, _option("--workers", help="Processes that make samples.", panel="Machine")] = None,
    precision: Annotated[
        str | None, _option("--precision", help="32-true, bf16-mixed, 16-mixed.", panel="Machine")
    ] = None,
    device: Annotated[str | None, _option("--device", help="auto, cpu, cuda, mps.", panel="Machine")] = None,
    json: Json = False,
) -> None:
    """Train a network on your own footage. Several processes: torchrun --nproc-per-node N -m fpsgan train …"""
    from fpsgan.training.config import load_config
    from fpsgan.training.train import train

    flags = {
        "network": network, "data": data, "photos": photos, "animations": animations, "fine_tune": fine_tune,
        "steps": steps, "max_minutes": max_minutes, "batch": batch, "crop": crop, "lr": lr, "adversarial": adversarial,
        "seed": seed, "workers": workers, "precision": precision, "device": device,
    }  # fmt: skip
    meter = _TrainMeter()
    trained = train(load_config(config, flags), output, resume=resume, on_progress=meter, on_note=_say)
    meter.end()
    if int(os.environ.get("RANK", 0)):
        return
    if json:
        _print_json(trained)
        return
    figures = ", ".join(f"{name} {value:.3f}" for name, value in trained.validation.items())
    _say(
        f"{trained.steps} steps, {trained.samples} samples, {trained.minutes:.1f} minutes; {figures or 'not validated'}"
    )
    for path in (trained.weights, trained.gan_weights):
        if path is not None:
            print(path)


@app.command("evaluate")
def evaluate_command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Videos, animations, folders of them, data sets; for deblurring photos and videos.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        list[str], _option("--weights", help="Networks to score, all of one kind; repeatable: a name or a file.")
    ] = ["interpolator-base"],  # noqa: B006 (typer copies it)
    peer: Annotated[
        list[str] | None,
        _option("--peer", help="Compare with hold, blend, minterpolate, dis (these are usual), rife; repeatable."),
    ] = None,
    every: Annotated[
        list[int] | None,
        _option("--every", help="Keep every so-many-th frame, rebuild the others; repeatable (2 and 4)."),
    ] = None,
    split: Annotated[str | None, _option("--split", help="Of data sets: train, val or test (test, else val).")] = None,
    limit: Annotated[int, _option("--limit", help="Images of a clip at most, from its start; 0: all.")] = 0,
    vmaf: Annotated[
        bool | None, _option("--vmaf/--no-vmaf", help="VMAF; by default where an ffmpeg here has libvmaf.")
    ] = None,
    output: Annotated[
        Path | None, _option("-o", "--output", help="Folder for table.md, results.json and pictures of the worst.")
    ] = None,
    device: Device = "auto",
    half: Half = None,
    json: Json = False,
) -> None:
    """Score networks on footage: hide frames and rebuild them, or blur pictures and sharpen them."""
    from fpsgan.training.evaluate import evaluate, table

    meter = _Meter()
    result = evaluate(
        places, weights=weights, peers=peer or None, every=every or (2, 4), split=split, limit=limit, vmaf=vmaf,
        output=output, device=device, half=half, on_progress=meter, on_note=_say,
    )  # fmt: skip
    meter.end()
    _print_json(result) if json else print(table(result))


@app.command("report")
def report_command(
    source: Annotated[Path, typer.Argument(help="A video, a GIF, or a folder of images.", show_default=False)],
    output: Annotated[
        Path | None, _option("-o", "--output", help="The page; by default CLIP-report.html here.")
    ] = None,
    weights: Weights = Options.weights,  # type: ignore[assignment]
    start: Start = None,
    end: End = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    half: Half = None,
    json: Json = False,
) -> None:
    """Tell how well a clip interpolates: hide every other frame, rebuild it, compare; one HTML page to look at."""
    from fpsgan.training.report import report

    meter = _Meter()
    result = report(
        source, output or Path(f"{source.stem}-report.html"), weights=weights, overwrite=overwrite, device=device,
        start=None if start is None else parse_time(start), end=None if end is None else parse_time(end), half=half,
        on_progress=meter, on_note=_say,
    )  # fmt: skip
    meter.end()
    if json:
        _print_json(result)
        return
    for name, figures in result.methods.items():
        print(f"{name:>14} {figures['psnr']:6.2f} dB")
    print(result.page)


@app.command("probe")
def probe_command(
    source: Annotated[Path, typer.Argument(help="A video, a GIF, or a folder of images.")],
    stream: StreamIndex = None,
    json: Json = False,
) -> None:
    """Tell what a file really is: rate, variable timing, rotation, colour, other streams, damage."""
    info = probe(source, stream=stream)
    if json:
        record = dataclasses.asdict(info)
        del record["presentation"]  # every frame's time
        record["damage"] = [str(damage) for damage in info.damage]
        print(_json_text(record))
    else:
        print(_probe_text(info))


@app.command("demo")
def demo_command(
    output: Annotated[Path, _option("-o", "--output", help="Folder for the results.")] = Path("demo"),
) -> None:
    """Render a short choppy, blurred clip with sound, enhance it, and show before and after."""
    meter = _Meter()
    result, files = _interruptible(lambda: make_demo(output, on_progress=meter))
    meter.end()
    _say(_result_text(result))
    for what, path in files.items():
        print(f"{what}: {path}")


@app.command("stream")
def stream_command(
    source: Annotated[str, typer.Argument(help="- (a pipe), /dev/video0, rtsp://…, or a file, played at its speed.")],
    output: Annotated[str, _option("-o", "--output", help="- (a pipe: YUV4MPEG), udp://…, rtsp://…, or a file.")],
    deblur: DeblurMode = "auto",
    deblur_strength: Strength = 1.0,
    fps: Fps = None,
    multi: Multi = None,
    max_delay: Annotated[float, _option("--max-delay", help="Seconds; what would take longer is left out.")] = 0.5,
    weights: Weights = Options.weights,  # type: ignore[assignment]
    deblur_weights: DeblurWeights = Options.deblur_weights,  # type: ignore[assignment]
    device: Device = "auto",
    half: Half = None,
    json: Json = False,
) -> None:
    """Near live: enhance a camera, a pipe or a network stream while it runs. Everything it says goes to standard error.

    fpsgan stream /dev/video0 -o - | mpv -
    """
    options = Options(
        deblur=deblur, deblur_strength=deblur_strength, weights=weights, deblur_weights=deblur_weights, device=device,
        half=half, fps=None if fps is None else parse_rate(fps), multi=None if multi is None else parse_rate(multi),
    )  # fmt: skip
    live = sys.stderr.isatty()

    def tell(now: StreamReport) -> None:
        if live:
            print(f"\r{_stream_text(now)}\033[K", end="", file=sys.stderr, flush=True)

    report = stream(source, output, options=options, max_delay=max_delay, on_report=tell)
    if json:
        print(_json_text(report), file=sys.stderr)
    else:
        _say(f"{_stream_text(report)}; {report.ended}")


def _stream_text(now: StreamReport) -> str:
    left_out = {"not deblurred": now.not_deblurred, "held": now.held, "dropped": now.dropped}
    return (
        f"{now.frames_in} frames in, {now.frames_out} out ({now.generated} generated, {now.deblurred} deblurred), "
        f"{now.rate:.1f} of {now.fps:.4g} frames/s, latency {1000 * now.latency:.0f} ms "
        f"(95 %: {1000 * now.latency_p95:.0f}, longest {1000 * now.latency_max:.0f}), for want of time: "
        + ", ".join(f"{count} {what}" for what, count in left_out.items())
        + (f"; {now.damaged} damaged packets passed over" if now.damaged else "")
    )


@app.command("doctor")
def doctor_command() -> None:
    """Check this machine: ffmpeg and its encoders, devices, packages, weights."""
    print(f"fpsgan {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("torch", "numpy", "pillow", "pi-heif", "opencv-python-headless", "av", "ffmpeg-python",
                    "imageio-ffmpeg", "safetensors", "numba"):  # fmt: skip
        print(f"  {package} {importlib.metadata.version(package)}")
    print(f"ffmpeg {ffmpeg_version()} at {ffmpeg_path()}, with")
    available = encoders()
    for codec, (encoder, *_) in CODECS.items():
        print(f"  {codec}: {'yes' if encoder in available else f'no ({encoder} is not in this build)'}")
    device = pick_device()
    print(f"device {device} in {pick_dtype(device, None)}, {torch.get_num_threads()} CPU threads")
    nowhere = "nowhere, so that every run compiles for some seconds; set NUMBA_CACHE_DIR to a folder"
    print(f"compiled code is kept in {kernels.kept() or nowhere}")
    print(f"PyAV with libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")
    for name in weights.bundled():
        print(f"weights {name}: sha256 {weights.verify(name)[:16]}… ok")
    print("all is well")


@weights_app.command("list")
def weights_list() -> None:
    """Name the shipped weights."""
    for name, path in weights.bundled().items():
        facts = weights.metadata(name)
        print(
            f"{name}: {facts['architecture']}, {facts['parameters'] / 1e6:.2f} M parameters, "
            f"{_size_text(path.stat().st_size)}"
        )


@weights_app.command("show")
def weights_show(name: Annotated[str, typer.Argument(help="A shipped name or a .safetensors file.")]) -> None:
    """Print what a weights file says of itself."""
    print(json.dumps(weights.metadata(name), indent=2))


@weights_app.command("verify")
def weights_verify() -> None:
    """Check the shipped weights against their sha256."""
    for name in weights.bundled():
        print(f"{name}: {weights.verify(name)} ok")


@weights_app.command("convert")
def weights_convert(
    checkpoint: Annotated[Path, typer.Argument(help="fpn_inception.h5, fpn_mobilenet.h5, or one trained like them.")],
    output: Annotated[Path, _option("-o", "--output", help="The .safetensors file to write.")],
    norm: Annotated[
        str, _option("--norm", help="Statistics to run with: instance (each picture's own, as the authors) or running.")
    ] = "instance",
    overwrite: Overwrite = False,
) -> None:
    """Make weights for --deblur-weights of a published DeblurGAN-v2 checkpoint."""
    print(weights.convert(checkpoint, output, norm=norm, overwrite=overwrite))


SETTLED = 8  # frames after which a rate is told


class _Meter:
    """One line on standard error that follows the work; on a terminal it is rewritten in place."""

    def __init__(self) -> None:
        self.last = 0.0
        self.live = sys.stderr.isatty()

    def __call__(self, now: Progress | EvaluateProgress) -> None:
        if time.monotonic() - self.last < (0.2 if self.live else 10) and now.done < now.total:
            return
        self.last = time.monotonic()
        # the first frames wait for what is loaded and compiled: they tell no rate
        known = now.done >= SETTLED and now.done / now.rate > 2
        text = f"{now.done}/{now.total} frames" + (f", {now.rate:.1f}/s, {_clock(now.eta)} left" if known else "")
        print(f"\r{text}\033[K" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.live and self.last:
            print(file=sys.stderr)


class _TrainMeter:
    """One line on standard error: how far, how fast, how good."""

    def __init__(self) -> None:
        self.last = 0.0
        self.live = sys.stderr.isatty()

    def __call__(self, now: TrainProgress) -> None:
        if time.monotonic() - self.last < (0.5 if self.live else 20) and now.done < 1:
            return
        self.last = time.monotonic()
        scalars = {**now.scalars, **{f"validation {name}": value for name, value in now.validation.items()}}
        figures = " ".join(f"{name} {value:.4g}" for name, value in scalars.items() if name not in ("lr", "grad_norm"))
        text = (
            f"step {now.step} ({100 * now.done:.0f} %), {now.samples_per_second:.1f} samples/s, "
            f"waited {100 * now.waited:.0f} %, {_clock(now.eta)} left: {figures}"
        )
        print(f"\r{text}\033[K" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.live and self.last:
            print(file=sys.stderr)


class _BuildMeter:
    """One line on standard error: which video, how far."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.live = sys.stderr.isatty()

    def __call__(self, now: BuildProgress) -> None:
        if time.monotonic() - self.last < (0.2 if self.live else 10) or now.stage == "done":
            return
        self.last = time.monotonic()
        text = (
            f"{100 * now.done:.0f} %, {_clock(now.eta)} left, {now.sequences} sequences; "
            f"{now.number}/{now.total} {now.source}: {'looking through' if now.stage == 'look' else 'cutting out'}"
        )
        print(f"\r{text}\033[K" if self.live else text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.live:
            print(file=sys.stderr)


def _say(text: str) -> None:
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def _print_json(record: Any) -> None:
    print(_json_text(record))


def _json_text(record: Any) -> str:
    fields = record if isinstance(record, dict) else dataclasses.asdict(record)
    return json.dumps(fields, indent=2, default=str)


def _result_text(result: Result) -> str:
    parts = [
        f"{result.target}: {result.frames_in} frames at {result.fps_in} fps → "
        f"{result.frames_out} at {result.fps_out} fps",
        f"{result.duration_out:.3f} s",
        f"{result.generated} generated, {result.untouched} untouched, {result.deblurred} deblurred",
    ]
    if result.cuts:
        parts.append(f"{len(result.cuts)} cuts")
    if result.held:
        parts.append(f"{result.held} repeated")
    if result.av_offset_in is not None and result.av_offset_out is not None:
        parts.append(f"sound off by {1000 * (result.av_offset_out - result.av_offset_in):+.2f} ms against the source")
    return ", ".join([*parts, _size_text(result.size), f"took {_clock(result.seconds)}"])


def _build_text(summary: BuildSummary) -> str:
    from fpsgan.training.build import REASONS

    lines = [f"{'':>10}{'sources':>9}{'sequences':>11}{'frames':>9}{'minutes':>9}"]
    lines += [
        f"{split:>10}{summary.sources[split]:>9}{summary.sequences[split]:>11}{summary.frames[split]:>9}"
        f"{60 * summary.hours[split]:>9.1f}"
        for split in summary.sources
    ]
    lines.append("sequences by motion, px per frame: " + ", ".join(f"{k}: {n}" for k, n in summary.motion.items() if n))
    lines += [f"left out: {spent:.1f} s, {REASONS[reason]}" for reason, spent in summary.rejected.items() if spent]
    if summary.refused:
        unreadable = f", {len(summary.unreadable)} of them unreadable" if summary.unreadable else ""
        lines.append(f"left out: {len(summary.refused)} videos as a whole{unreadable} (the reasons: summary.json)")
    lines += [f"note: {note}" for note in summary.notes]
    lines.append(
        f"{summary.output}: {_size_text(summary.bytes)} in {summary.packs} pack{'s' * (summary.packs > 1)}; "
        "look at contact.jpg in it before you train"
    )
    return "\n".join(lines)


def _estimate_text(expected: Estimate) -> str:
    memory = f", {_size_text(expected.peak_rss)} of memory" if expected.peak_rss else ""
    return (
        f"{expected.frames_in} frames in, {expected.frames_out} out at {expected.fps_out} fps, "
        f"about {_clock(expected.seconds)}{memory}, file of about {_size_text(expected.size)}"
    )


def _probe_text(info: VideoInfo) -> str:
    color = info.color
    lines = [
        f"{info.path}",
        f"  picture   {info.width}×{info.height}, {info.codec}, {info.format.name}, {info.format.depth} bit"
        + (f", turned by {info.rotation}°" if info.rotation else "")
        + (", mirrored" if info.mirrored else "")
        + (f", pixels {info.sar} wide" if info.sar != 1 else "")
        + (", flagged interlaced" if info.interlaced else "")
        + (", HDR" if color.hdr else ""),
        f"  colour    matrix {color.matrix}, primaries {color.primaries}, transfer {color.transfer}, "
        f"{'full' if color.full_range else 'limited'} range, chroma {color.chroma_location}",
        f"  measured  {info.frame_count} frames, {_rate(info.frame_rate)} fps"
        f"{' mostly (variable)' if info.vfr else ''}, "
        f"{float(info.duration):.3f} s, first at {float(info.start - info.origin):.3f} s",
    ]
    if info.interlaced or info.scan != Scan():
        lines.insert(2, f"  fields    {info.scan}")
    if info.header_frames and info.header_frames != info.frame_count:
        lines.append(f"  header    says {info.header_frames} frames")
    lines += [f"  damage    {damage}" for damage in info.damage]
    lines += [f"  note      {note}" for note in info.notes]
    lines += [f"  {stream.kind:<9} {stream.index}: {stream.codec} {stream.language}".rstrip() for stream in info.others]
    return "\n".join(lines)


def _rate(rate: Fraction) -> str:
    return str(rate) if rate.denominator == 1 else f"{float(rate):.3f} ({rate})"


def _clock(seconds: float) -> str:
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _size_text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _interruptible(work: Callable[[], T]) -> T:
    """Do long work; on Ctrl-C (or SIGTERM, see main) end at once: by then the library has tidied up."""
    try:
        return work()
    except KeyboardInterrupt:
        print("\nstopped; nothing was left under the output's name", file=sys.stderr, flush=True)
        os._exit(130)  # a thread may still be inside a network call, which nothing can interrupt


def main() -> None:
    """Entry point: errors meant for people become one line and an exit code; --debug shows the traceback."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # also where a shell started us with SIGINT ignored
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.default_int_handler)
    for output in (sys.stdout, sys.stderr):
        output.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be UTF-8
    try:
        app()
    except FpsganError as error:
        if debug:
            raise
        print(f"fpsgan: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except Exception as error:  # the last resort: still one line
        if debug:
            raise
        print(f"fpsgan: unexpected {type(error).__name__}: {error}; --debug shows where", file=sys.stderr)
        sys.exit(70)
