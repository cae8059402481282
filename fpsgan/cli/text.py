"""Results in words: what the commands print."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from fpsgan.cli.progress import Line
from fpsgan.video.fields import Scan
from fpsgan.video.probe import VideoInfo

if TYPE_CHECKING:  # for their types alone: they load torch
    from fpsgan.benchmark import Benchmark
    from fpsgan.job import Estimate, Progress, Result
    from fpsgan.live import StreamReport
    from fpsgan.training import build, evaluate, train

WIDTH = 200  # columns of a table that goes to a file or a pipe
SETTLED = 8  # frames after which a rate is shown


def frames_line(now: Progress | evaluate.Progress) -> Line:
    text = f"{now.done}/{now.total} frames"
    # the first frames wait for loading and compiling, and say nothing about the rate
    if now.done >= SETTLED and now.done / now.rate > 2:
        text += f", {now.rate:.1f}/s" + (f", {clock_text(now.eta)} left" if now.done < now.total else "")
    return Line(now.done / now.total, text)


def job_line(now: Progress) -> Line:
    if now.stage == "joining":
        return Line(1.0, f"{now.done} frames; joining and checking the file")
    return frames_line(now)


def training_line(now: train.Progress) -> Line:
    scalars = {**now.scalars, **{f"validation {name}": value for name, value in now.validation.items()}}
    figures = " ".join(f"{name} {value:.4g}" for name, value in scalars.items() if name not in ("lr", "grad_norm"))
    return Line(
        min(now.done, 1.0),
        f"step {now.step}, {now.samples_per_second:.1f} samples/s, waited {100 * now.waited:.0f} %, "
        f"{clock_text(now.eta)} left: {figures}",
    )


def building_line(now: build.Progress) -> Line:
    doing = "looking through" if now.stage == "look" else "cutting out"
    left = f", {clock_text(now.eta)} left" if now.done else ""
    return Line(now.done, f"{now.sequences} sequences{left}; {now.number}/{now.total} {now.source}: {doing}")


def benchmark_text(found: Benchmark) -> str:
    rows = [[name, f"{spent:.2f}"] for name, spent in found.stages.items()]
    rows.append(["total", f"{sum(found.stages.values()):.2f}"])
    rows += [[name, f"{spent:.2f}"] for name, spent in found.peers.items()]
    memory = f", {size_text(found.device_memory)} on the device" if found.device_memory else ""
    return (
        f"{found.device}; engine {found.engine}, {found.dtype}, {found.weights}, {found.size}, {found.batch} at once\n"
        f"{table_text(['stage', 'ms a pair'], rows)}\n"
        f"file to file: {found.fps:.1f} output frames/s ({found.frames} in {found.seconds:.2f} s), bound by "
        f"{found.bound}; peak memory {size_text(found.peak_rss)}{memory}"
        + "".join(f"\n{what}" for what in found.missing)
    )


def stream_line(now: StreamReport) -> Line:
    return Line(None, stream_text(now))


def stream_text(now: StreamReport) -> str:
    left_out = {
        "not deblurred": now.not_deblurred,
        "held": now.held,
        "dropped": now.dropped,
        "skipped": now.skipped,
        "audio packets dropped": now.left_out,
    }
    wanting = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    levels = ", ".join(f"{name} {100 * count / max(now.frames_out, 1):.0f} %" for name, count in now.levels.items())
    return (
        f"{now.frames_in} frames in, {now.frames_out} out ({now.generated} generated, {now.deblurred} deblurred), "
        f"{now.rate:.1f} of {now.fps:.4g} frames/s, delay {1000 * now.latency:.0f} ms "
        f"(95 %: {1000 * now.latency_p95:.0f}, most {1000 * now.latency_max:.0f})"
        + (f"; effort: {levels}" if levels else "")
        + (f"; for lack of time: {wanting}" if wanting else "")
        + (f"; {now.waited} frames repeated while waiting for the source" if now.waited else "")
        + (f"; {now.damaged} damaged packets skipped" if now.damaged else "")
    )


def json_text(record: Any) -> str:
    """A record, a list of them, or a dataclass, as JSON."""
    plain = record if isinstance(record, dict | list) else dataclasses.asdict(record)
    return json.dumps(plain, indent=2, default=str)


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """A table with names in the first column and figures in the others."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines() if line.strip())


def scores_text(records: list[dict[str, Any]]) -> str:
    """PSNR and SSIM as a table: a row per picture and one for the mean, a column for each of the weights."""
    names = list(dict.fromkeys(record["weights"] for record in records))
    pictures = list(dict.fromkeys(record["picture"] for record in records))
    found = {(record["picture"], record["weights"]): record for record in records}
    for name in names:
        for score in ("psnr", "ssim"):
            mean = sum(found[picture, name][score] for picture in pictures) / len(pictures)
            found.setdefault(("mean", name), {})[score] = mean
    rows = [
        [picture, *(f"{found[picture, name]['psnr']:.2f} dB, {found[picture, name]['ssim']:.4f}" for name in names)]
        for picture in [*pictures, "mean"]
    ]
    return table_text(["", *names], rows, markdown=True)


def result_text(result: Result) -> str:
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
        parts.append(f"audio shifted by {1000 * (result.av_offset_out - result.av_offset_in):+.2f} ms")
    return ", ".join([*parts, size_text(result.size), f"took {clock_text(result.seconds)}"])


def build_text(summary: build.Summary) -> str:
    from fpsgan.training.build import REASONS

    rows = [
        [split, f"{summary.sources[split]}", f"{summary.sequences[split]}", f"{summary.frames[split]}",
         f"{60 * summary.hours[split]:.1f}"]
        for split in summary.sources
    ]  # fmt: skip
    lines = [table_text(["", "sources", "sequences", "frames", "minutes"], rows)]
    lines.append("sequences by motion, px per frame: " + ", ".join(f"{k}: {n}" for k, n in summary.motion.items() if n))
    lines += [f"left out: {spent:.1f} s, {REASONS[reason]}" for reason, spent in summary.rejected.items() if spent]
    if summary.refused:
        unreadable = f", {len(summary.unreadable)} of them unreadable" if summary.unreadable else ""
        lines.append(f"left out: {len(summary.refused)} whole videos{unreadable} (reasons in summary.json)")
    lines += [f"note: {note}" for note in summary.notes]
    lines.append(
        f"{summary.output}: {size_text(summary.bytes)} in {summary.packs} pack{'s' * (summary.packs > 1)}; "
        "look at contact.jpg in it before you train"
    )
    return "\n".join(lines)


def estimate_text(expected: Estimate) -> str:
    memory = f", {size_text(expected.peak_rss)} of memory" if expected.peak_rss else ""
    return (
        f"{expected.frames_in} frames in, {expected.frames_out} out at {expected.fps_out} fps, "
        f"about {clock_text(expected.seconds)}{memory}, file of about {size_text(expected.size)}"
    )


def probe_text(info: VideoInfo) -> str:
    color = info.color
    lines = [
        f"{info.path}",
        f"  picture   {info.width}×{info.height}, {info.codec}, {info.format.name}, {info.format.depth} bit"
        + (f", rotated by {info.rotation}°" if info.rotation else "")
        + (", mirrored" if info.mirrored else "")
        + (f", pixel aspect ratio {info.sar}" if info.sar != 1 else "")
        + (", flagged interlaced" if info.interlaced else "")
        + (", HDR" if color.hdr else ""),
        f"  colour    matrix {color.matrix}, primaries {color.primaries}, transfer {color.transfer}, "
        f"{'full' if color.full_range else 'limited'} range, chroma {color.chroma_location}",
        f"  measured  {info.frame_count} frames, {rate_text(info.frame_rate)} fps"
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


def rate_text(rate: Fraction) -> str:
    return str(rate) if rate.denominator == 1 else f"{float(rate):.3f} ({rate})"


def clock_text(seconds: float) -> str:
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def size_text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
