"""enhance, interpolate and deblur, of one input or many; stream, demo and benchmark."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fpsgan.cli.options import (
    Deblurring,
    Engine,
    Files,
    Interpolation,
    InterpolatorWeights,
    Job,
    Json,
    Machine,
    Quiet,
    Rate,
    RateOrSlowmo,
    Report,
    grouped,
    job_options,
    option,
)
from fpsgan.cli.progress import Meter, tell, until_interrupted
from fpsgan.cli.text import (
    benchmark_text,
    estimate_text,
    job_line,
    json_text,
    result_text,
    scores_text,
    size_text,
    stream_line,
    stream_text,
)
from fpsgan.errors import FpsganError, OptionError, check_choice
from fpsgan.options import Options
from fpsgan.video.codecs import CONTAINERS, PIPED
from fpsgan.video.files import make_folder
from fpsgan.video.photo import KINDS, kind_of, name_for
from fpsgan.video.probe import image_files

if TYPE_CHECKING:  # for its type alone: it loads torch
    from fpsgan.job import Progress

Pair = tuple[Path, Path]  # a source and its target


@grouped
def enhance_command(
    files: Files, deblurring: Deblurring, rate: RateOrSlowmo, interpolation: Interpolation, job: Job, report: Report
) -> None:
    """Sharpen blurred frames and raise the frame rate: the main command. Several inputs go into a folder."""
    _run(files, report, job_options(deblurring, rate, interpolation, job))


@grouped
def interpolate_command(
    files: Files, rate: RateOrSlowmo, interpolation: Interpolation, job: Job, report: Report
) -> None:
    """Raise the frame rate or slow down, without deblurring. Several inputs go into a folder."""
    _run(files, report, job_options(rate, interpolation, job, deblur="off"))


@grouped
def deblur_command(
    files: Files,
    deblurring: Deblurring,
    job: Job,
    report: Report,
    compare: Annotated[
        str | None,
        option("Photos: write sheets that show the photo beside the result of each of these weights (a,b)."),
    ] = None,
    truth: Annotated[Path | None, option("With --compare: folder of the sharp originals, to score against.")] = None,
) -> None:
    """Sharpen videos and photos. Frames keep their times; photos keep their ICC profile, EXIF and transparency.

    Several inputs go into a folder. With a folder of photos and a folder as output, each photo is sharpened by itself.
    """
    if compare is not None and (files.output is None or not _is_folder(files.output)):
        raise OptionError(f"--compare puts sheets into a folder: {files.output} is none; name one with -o")
    _run(
        files, report, job_options(deblurring, job, interpolate=False),
        photos=True, compare=compare, truth=truth,
    )  # fmt: skip


def _run(
    files: Files,
    report: Report,
    options: Options,
    *,
    photos: bool = False,
    compare: str | None = None,
    truth: Path | None = None,
) -> None:
    """One job after another; one that fails does not stop the rest, and is counted at the end."""
    sources = files.sources or ([files.input] if files.input else [])
    if not sources:
        raise OptionError("no input: name a video, as in `fpsgan enhance clip.mp4 -o better.mp4`")
    if files.output is None:
        raise OptionError("no output: say where to put it with -o")
    pairs = _pairs(sources, files.output, photos=photos)
    pictures = [pair for pair in pairs if photos and _is_photo_job(*pair)]
    failed = 0

    def fail(error: FpsganError) -> None:
        nonlocal failed
        failed += 1
        tell(f"fpsgan: {error}")

    records: list[Any] = []

    def attempt(job: Callable[[], list[Any]]) -> None:
        try:
            records.extend(until_interrupted(job))
        except FpsganError as error:
            if len(pairs) == 1 or isinstance(error, OptionError):
                raise
            fail(error)

    if pictures:
        on_error = fail if len(pairs) > 1 else None
        attempt(lambda: _photos(pictures, options, report, compare, truth, on_error))
    videos = [pair for pair in pairs if pair not in pictures]
    if videos:
        with _meter(report, several=len(videos) > 1) as meter:
            for number, ((source, target), part) in enumerate(zip(videos, _parts(videos), strict=True), 1):
                meter.begin(source.name if len(pairs) == 1 else f"{number}/{len(videos)} {source.name}", part)
                attempt(partial(_video, source, target, options, report, meter))
    if report.json and records:
        single = len(pairs) == 1 and not pictures
        print(json_text(records[0] if single else records))
    if failed:
        raise FpsganError(f"{failed} of {len(pairs)} inputs failed, named above; the others are done")


def _pairs(sources: list[Path], output: Path, *, photos: bool) -> list[Pair]:
    """Each source with its target: the output itself if there is one source, else a file of its name in that folder."""
    listed = [
        path
        for source in sources
        for path in (image_files(source) if photos and source.is_dir() and _is_folder(output) else [source])
    ]
    if len(listed) == 1 and not (photos and _is_folder(output) and kind_of(listed[0]) == "photo"):
        return [(listed[0], output)]
    if not _is_folder(output):
        raise OptionError(f"several inputs go into a folder: {output} is none; name one with -o")
    pairs = [(source, output / _name_in_folder(source, photos=photos)) for source in listed]
    for target, count in Counter(target for _, target in pairs).items():
        if count > 1:
            raise OptionError(f"two inputs would both become {target}; put them into different folders")
    make_folder(output)
    return pairs


def _is_folder(output: Path) -> bool:
    """A folder, or about to be one."""
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
    pairs: list[Pair],
    options: Options,
    report: Report,
    compare: str | None,
    truth: Path | None,
    on_error: Callable[[FpsganError], None] | None,
) -> list[Any]:
    from fpsgan import photos

    if report.dry_run:
        raise OptionError("--dry-run is for videos: a photo is done in a second or two")
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    if compare is not None:
        records = photos.compare(sources, targets[0].parent, compare.split(","), options, truth)
        if truth is not None and not report.json:
            print(scores_text(records))
        return records
    results = photos.deblur_photos(sources, targets, options, on_error=on_error)
    if not report.quiet:
        for result in results:
            tell(f"{result.target}: blur {result.score:.2f}, sharpened {100 * result.strength:.0f} %")
    return [dataclasses.asdict(result) for result in results]


def _meter(report: Report, *, several: bool) -> Meter[Progress]:
    from fpsgan.job import Progress

    check_choice("--progress", report.progress, ("text", "json"))
    record = Progress._asdict if report.progress == "json" else None
    return Meter(job_line, quiet=report.quiet or report.dry_run, several=several, record=record)


def _parts(pairs: list[Pair]) -> list[tuple[float, float]]:
    """Where each source begins and ends, as shares of the whole work, estimated from file sizes."""
    sizes = [1 + _size(source) for source, _ in pairs]
    ends = [end / sum(sizes) for end in accumulate(sizes)]
    return list(zip([0.0, *ends], ends, strict=False))


def _size(source: Path) -> int:
    files = source.glob("*") if source.is_dir() else [source]
    return sum(path.stat().st_size for path in files if path.is_file())


def _video(source: Path, target: Path, options: Options, report: Report, meter: Meter[Progress]) -> list[Any]:
    from fpsgan.job import enhance, estimate, peak_rss

    if report.dry_run:
        expected = estimate(source, target, options=options)
        if not report.json:
            print(estimate_text(expected))
        return [dataclasses.asdict(expected)]
    result = enhance(source, target, options=options, on_progress=meter, on_note=meter.say)
    if not report.json:
        meter.say(result_text(result))
    if report.benchmark:
        tell(
            f"{result.seconds:.2f} s in total, {result.frames_out / result.seconds:.2f} output frames/s, "
            f"networks busy {100 * result.network_seconds / result.seconds:.0f} % of the time, "
            f"peak memory {size_text(peak_rss())}"
        )
    return [dataclasses.asdict(result)]


@grouped
def stream_command(
    source: Annotated[str, typer.Argument(help="A file, - (a pipe), /dev/video0, rtsp://…, udp://…", metavar="IN")],
    output: Annotated[str, option("- (a pipe), udp://…, rtmp://…, or a file.", "-o", "--output")],
    deblurring: Deblurring,
    rate: Rate,
    machine: Machine,
    max_delay: Annotated[float, option("Longest delay, in seconds; later work is skipped.")] = 0.5,
    format: Annotated[str, option("Container for a pipe; yuv4mpegpipe has no audio.", values=PIPED)] = PIPED[0],
    weights: InterpolatorWeights = str(Options.weights),
    engine: Engine = Options.engine,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Enhance a film, a camera or a network stream while it plays, with its audio and subtitles.

    fpsgan stream film.mkv -o - | mpv -

    If the machine is too slow, effort is reduced in steps: no deblurring, smaller networks, fewer frames.
    Standard error reports it. Camera shake and motion blur are not removed here.
    """
    options = job_options(deblurring, rate, machine, weights=weights, engine=engine)

    from fpsgan.live import stream

    with Meter(stream_line, title=source, quiet=quiet) as meter:
        done = stream(
            source, output, options=options, max_delay=max_delay, format=format, on_report=meter, on_note=meter.say
        )
    if json:
        tell(json_text(done))
    else:
        meter.say(f"{stream_text(done)}; {done.ended}")


@grouped
def benchmark_command(
    machine: Machine,
    size: Annotated[str, option("Frame size.", values=("360p", "720p", "1080p", "2160p"))] = "1080p",
    frames: Annotated[int, option("Number of frames in the rendered clip.")] = 25,
    engine: Engine = "auto",
    weights: InterpolatorWeights = "interpolator-base",
    peers: Annotated[bool, option("Also measure RIFE v4.0 and HDv3, if installed.", "--peers")] = False,
    json: Json = False,
) -> None:
    """Measure how fast this machine interpolates, and where the time goes."""
    from fpsgan.benchmark import benchmark

    found = benchmark(job_options(machine, engine=engine, weights=weights), size, frames, peers=peers)
    print(json_text(dataclasses.asdict(found)) if json else benchmark_text(found))


def demo_command(
    output: Annotated[Path, option("Folder for the results.", "-o", "--output")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """Render a short, choppy, blurred clip with sound, enhance it, and make a before/after picture."""
    from fpsgan.demo import make_demo

    with Meter(job_line, title="demo", quiet=quiet) as meter:
        result, made = until_interrupted(lambda: make_demo(output, on_progress=meter))
    meter.say(result_text(result))
    for what, path in made.items():
        print(f"{what}: {path}")
