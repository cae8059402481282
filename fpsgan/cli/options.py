"""The options of the commands, each declared once, in groups that the commands share."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fpsgan.errors import OptionError, check_choice
from fpsgan.options import ENGINES, HWACCELS, Options
from fpsgan.video.codecs import CODECS, EncodeOptions
from fpsgan.video.fields import MODES

__all__ = ["grouped", "job_options", "option", "parse_rate", "parse_time"]

NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "59.94": 60, "119.88": 120}


def parse_rate(text: str | Fraction) -> Fraction:
    """ "60", "60000/1001", "2.5", or an NTSC rate as people write it (23.976, 29.97, 59.94), exactly."""
    if text in NTSC:
        return Fraction(NTSC[str(text)] * 1000, 1001)
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


def option(help: str, *names: str, panel: str | None = None, values: tuple[str, ...] = (), **more: Any) -> Any:
    """An option for ``Annotated``, named like the parameter unless ``names`` are given. The shell completes ``values``;
    the library rejects others."""
    if values:
        more = {"metavar": f"<{'|'.join(values)}>", "autocompletion": lambda: list(values)} | more
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


of_rate = partial(option, parser=parse_rate, metavar="<number>")
of_time = partial(option, parser=parse_time, metavar="<time>")
of_input = partial(option, panel="Input")
of_output = partial(option, panel="Output")
of_machine = partial(option, panel="Machine")
of_switch = partial(option, values=("auto", "on", "off"))

Source = Annotated[Path, typer.Argument(help="A video, a GIF, or a folder of images.", show_default=False)]
InterpolatorWeights = Annotated[str, option("Interpolator weights: a shipped name or a .safetensors file.")]
Engine = Annotated[
    str, of_machine("cpu: compiled CPU code; torch: all on the device; auto: torch on a GPU.", values=ENGINES)
]
StreamIndex = Annotated[int | None, of_input("Index of the video stream to use.")]
Overwrite = Annotated[bool, of_output("Replace an existing output.", "-y", "--overwrite")]
Json = Annotated[bool, option("Print the result as JSON on standard output.", "--json")]
Quiet = Annotated[bool, option("Print nothing but errors to standard error.", "-q", "--quiet")]
CUT_HELP = "Similarity of two frames, relative to the pairs before, below which a new scene starts; 0: no cuts."


@dataclass(frozen=True)
class Files:
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Videos, GIFs, photos, or folders of images.", show_default=False)
    ] = None
    input: Annotated[Path | None, option("The input, as an option instead.", "-i", "--input")] = None
    output: Annotated[
        Path | None, option("Output path; the suffix sets the format (none: a folder of PNG files).", "-o", "--output")
    ] = None


@dataclass(frozen=True)
class Deblurring:
    deblur: Annotated[str, of_switch("auto: only blurred frames; on: every frame; off: none.")] = Options.deblur
    deblur_strength: Annotated[float, option("From 0 (no effect) to 1 (full effect).")] = Options.deblur_strength
    deblur_weights: Annotated[str, option("Deblurring weights: a shipped name or a .safetensors file.")] = str(
        Options.deblur_weights
    )


@dataclass(frozen=True)
class Rate:
    fps: Annotated[Fraction | None, of_rate("Target frame rate: 60, 59.94, 60000/1001. Keeps the duration.")] = None
    multi: Annotated[Fraction | None, of_rate("Multiply the source's frame rate. Keeps the duration.")] = None


@dataclass(frozen=True)
class RateOrSlowmo(Rate):
    slowmo: Annotated[Fraction | None, of_rate("Slow down by this factor; audio is stretched to match.")] = None


@dataclass(frozen=True)
class Interpolation:
    scene_threshold: Annotated[float, option(CUT_HELP)] = Options.scene_threshold
    dedup: Annotated[str, of_switch("Detect held drawings in animation and space them evenly.")] = Options.dedup
    confidence_map: Annotated[
        Path | None, option("Folder for one PNG per generated frame: black where it is a guess.")
    ] = None
    weights: InterpolatorWeights = str(Options.weights)
    engine: Engine = Options.engine


@dataclass(frozen=True)
class Part:
    start: Annotated[Fraction | None, of_time("Start at this time (12.5 or 0:12.5).")] = None
    end: Annotated[Fraction | None, of_time("Stop before this time.")] = None


@dataclass(frozen=True)
class Machine:
    device: Annotated[str, of_machine("auto, cpu, cuda, cuda:1, mps, xpu.")] = Options.device
    half: Annotated[bool | None, of_machine("Half precision; default: where it is faster.", "--half/--no-half")] = None


@dataclass(frozen=True)
class Job(Machine, Part):
    """Options of every job that makes a file: on its source, its output and the machine."""

    hwaccel: Annotated[str, of_machine("auto: decode on a GPU if it gives the same frames.", values=HWACCELS)] = (
        Options.hwaccel
    )
    tile: Annotated[int, of_machine("Process in tiles of this many pixels; 0: only if memory is short.")] = Options.tile
    stream: StreamIndex = None
    image_rate: Annotated[Fraction, of_rate("Frame rate of a folder of images.", panel="Input")] = Options.image_rate
    on_error: Annotated[
        str, of_input("What to do at damage: stop, or conceal it and go on.", values=("stop", "conceal"))
    ] = "stop"
    deinterlace: Annotated[str, of_input("How to treat interlaced video; film: undo pulldown.", values=MODES)] = (
        Options.deinterlace
    )
    codec: Annotated[str, of_output(f"auto, {', '.join(CODECS)}.", values=("auto", *CODECS), metavar="<str>")] = (
        EncodeOptions.codec
    )
    crf: Annotated[int | None, of_output("Encoder quality; lower is better (webp, videotoolbox: higher).")] = None
    pix_fmt: Annotated[str | None, of_output("Pixel format; default: the source's, or the nearest possible.")] = None
    overwrite: Overwrite = False
    workers: Annotated[int, of_machine("Processes to run in parallel (per device).")] = 1
    devices: Annotated[str | None, of_machine("Use several devices: cuda:0,cuda:1.")] = None
    cluster: Annotated[
        str | None, of_machine("Spread the work over a Ray cluster: auto, or its address.", metavar="<auto|address>")
    ] = None
    resume: Annotated[
        bool, of_output("Keep finished segments if interrupted, and resume from them.", "--resume/--no-resume")
    ] = True


@dataclass(frozen=True)
class Report:
    """How a job reports what it did."""

    dry_run: Annotated[bool, option("Only estimate frames, time, memory and size.", "--dry-run")] = False
    json: Json = False
    benchmark: Annotated[bool, option("Print where the time was spent.", "--benchmark")] = False
    quiet: Quiet = False
    progress: Annotated[
        str, option("Progress on standard error; json: one object per line.", values=("text", "json"))
    ] = "text"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take the groups above: Typer sees their fields, the command gets instances of the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        types = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name])
            for field in dataclasses.fields(group)
        ]

    @wraps(command)
    def run(**given: Any) -> None:
        filled = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**filled, **given)

    vars(run).update(__signature__=inspect.Signature(parameters))
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def job_options(*groups: Deblurring | Rate | Interpolation | Machine, **more: Any) -> Options:
    """The library's Options from the groups that a command has. Raises OptionError for values that make no sense."""
    given = {name: value for group in groups for name, value in vars(group).items()} | more
    if "codec" in given:
        given["encode"] = EncodeOptions(given.pop("codec"), given.pop("crf"), given.pop("pix_fmt"))
    if "devices" in given:
        given["devices"] = tuple(given["devices"].split(",")) if given["devices"] else ()
    if "on_error" in given:
        on_error = given.pop("on_error")
        check_choice("--on-error", on_error, ("stop", "conceal"))
        given["conceal"] = on_error == "conceal"
    return Options(**given)
