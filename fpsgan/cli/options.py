"""What the commands take: every option is declared once, in groups that the commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fpsgan.errors import OptionError
from fpsgan.scene import SCENE_THRESHOLD
from fpsgan.video.encode import CODECS, EncodeOptions
from fpsgan.video.fields import MODES

if TYPE_CHECKING:
    from fpsgan.pipeline import Options

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


def option(*names: str, help: str, panel: str | None = None, values: tuple[str, ...] = (), **more: Any) -> Any:
    """An option for ``Annotated``. The shell completes ``values``; what else is allowed, the library says."""
    if values:
        more |= {"metavar": f"<{'|'.join(values)}>", "autocompletion": lambda: list(values)}
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _rate(*names: str, help: str, panel: str | None = None) -> Any:
    return option(*names, help=help, panel=panel, parser=parse_rate, metavar="<number>")


def _time(*names: str, help: str) -> Any:
    return option(*names, help=help, parser=parse_time, metavar="<time>")


Source = Annotated[Path, typer.Argument(help="A video, a GIF, or a folder of images.", show_default=False)]
InterpolatorWeights = Annotated[
    str, option("--weights", help="Interpolator weights: a shipped name or a .safetensors file.")
]
StreamIndex = Annotated[int | None, option("--stream", help="Index of the video stream to take.", panel="Input")]
Overwrite = Annotated[bool, option("-y", "--overwrite", help="Replace an existing output.", panel="Output")]
Json = Annotated[bool, option("--json", help="Print the result as JSON on standard output.")]
Quiet = Annotated[bool, option("-q", "--quiet", help="Say nothing but errors on standard error.")]


@dataclass(frozen=True)
class Files:
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Videos, GIFs, photos, or folders of images.", show_default=False),
    ] = None
    input: Annotated[Path | None, option("-i", "--input", help="The same, as an option.")] = None
    output: Annotated[
        Path | None,
        option("-o", "--output", help="Where to put it; the suffix says what kind (none: a folder of PNG)."),
    ] = None


@dataclass(frozen=True)
class Deblurring:
    deblur: Annotated[
        str,
        option("--deblur", help="auto: blurred frames only; on: all; off.", values=("auto", "on", "off")),
    ] = "auto"
    deblur_strength: Annotated[float, option("--deblur-strength", help="0 (nothing) to 1 (all of it).")] = 1.0
    deblur_weights: Annotated[str, option("--deblur-weights", help="Deblurring weights, likewise.")] = (
        "deblur-mobilenet"
    )


@dataclass(frozen=True)
class Rate:
    fps: Annotated[
        Fraction | None, _rate("--fps", help="Frame rate to reach: 60, 59.94, 60000/1001. Keeps the duration.")
    ] = None
    multi: Annotated[
        Fraction | None, _rate("--multi", help="Or a factor on the source's frame rate. Keeps the duration.")
    ] = None


@dataclass(frozen=True)
class RateOrSlowmo(Rate):
    slowmo: Annotated[
        Fraction | None, _rate("--slowmo", help="Play so many times slower; sound is stretched with it.")
    ] = None


@dataclass(frozen=True)
class Part:
    start: Annotated[Fraction | None, _time("--start", help="Begin at this time (12.5 or 0:12.5).")] = None
    end: Annotated[Fraction | None, _time("--end", help="Stop before this time.")] = None


@dataclass(frozen=True)
class Interpolation:
    scene_threshold: Annotated[
        float,
        option(
            "--scene-threshold",
            help="Likeness of two frames, as a share of that of those before, below which a scene begins; 0: no cuts.",
        ),
    ] = SCENE_THRESHOLD
    dedup: Annotated[
        str,
        option(
            "--dedup", help="Re-space repeated drawings of animation: auto, on or off.", values=("auto", "on", "off")
        ),
    ] = "auto"
    confidence_map: Annotated[
        Path | None, option("--confidence-map", help="Folder for a PNG per generated frame: black where it is a guess.")
    ] = None
    weights: InterpolatorWeights = "interpolator-base"


@dataclass(frozen=True)
class Machine:
    device: Annotated[str, option("--device", help="auto, cpu, cuda, cuda:1, mps, xpu.", panel="Machine")] = "auto"
    half: Annotated[
        bool | None,
        option("--half/--no-half", help="Half precision; by default where it is faster.", panel="Machine"),
    ] = None


@dataclass(frozen=True)
class MachineAndTiles(Machine):
    tile: Annotated[
        int, option("--tile", help="Work in tiles of so many pixels; 0: only if memory is short.", panel="Machine")
    ] = 0


@dataclass(frozen=True)
class Input:
    stream: StreamIndex = None
    image_rate: Annotated[Fraction, _rate("--image-rate", help="Frame rate of a folder of images.", panel="Input")] = (
        Fraction(24)
    )
    on_error: Annotated[
        str,
        option("--on-error", help="Damaged places: stop or conceal.", panel="Input", values=("stop", "conceal")),
    ] = "stop"
    deinterlace: Annotated[
        str,
        option("--deinterlace", help="Interlaced video; film: undo pulldown.", panel="Input", values=MODES),
    ] = "auto"


@dataclass(frozen=True)
class Output:
    codec: Annotated[
        str,
        option(
            "--codec",
            help=f"auto, {', '.join(CODECS)}.",
            panel="Output",
            autocompletion=lambda: ["auto", *CODECS],
        ),
    ] = "auto"
    crf: Annotated[
        int | None, option("--crf", help="The encoder's quality number; smaller is better.", panel="Output")
    ] = None
    pix_fmt: Annotated[
        str | None, option("--pix-fmt", help="Pixel format; by default the source's.", panel="Output")
    ] = None
    overwrite: Overwrite = False


@dataclass(frozen=True)
class Report:
    """How a job tells what it did."""

    dry_run: Annotated[
        bool, option("--dry-run", help="Only tell what it would come to: frames, time, memory, size.")
    ] = False
    json: Json = False
    benchmark: Annotated[bool, option("--benchmark", help="Print where the time went.")] = False
    quiet: Quiet = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command take the groups above: Typer sees their fields, the command gets each group filled in."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(
                parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name]),
            )
            continue
        group = groups[parameter.name]
        types = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name])
            for field in dataclasses.fields(group)
        ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        filled = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**filled, **given)

    vars(run).update(__signature__=inspect.Signature(parameters))
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def job_options(*groups: Deblurring | Rate | Part | Interpolation | Machine | Input | Output, **more: Any) -> Options:
    """What the library takes, of the groups that a command has. Raises OptionError for values that make no sense."""
    from fpsgan.pipeline import Options  # loads torch

    given = {name: value for group in groups for name, value in vars(group).items()} | more
    if "codec" in given:
        given["encode"] = EncodeOptions(given.pop("codec"), given.pop("crf"), given.pop("pix_fmt"))
    if "on_error" in given:
        on_error = given.pop("on_error")
        if on_error not in ("stop", "conceal"):
            raise OptionError(f"--on-error {on_error}: must be stop or conceal")
        given["conceal"] = on_error == "conceal"
    options = Options(**given)
    options.check()
    return options
