"""What the user may ask of a job, checked once, in one place; the job hands each stage its part."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from fpsgan.errors import OptionError, check_choice
from fpsgan.stages.scenes import SCENE_THRESHOLD, SceneSettings
from fpsgan.video.codecs import EncodeOptions
from fpsgan.video.fields import MODES

if TYPE_CHECKING:
    from deblur import Settings

__all__ = ["ENGINES", "HWACCELS", "Options"]

ENGINES = ("auto", "cpu", "torch")
HWACCELS = ("auto", "none")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user may ask for. Rates and times are exact Fractions, times in seconds. Raises OptionError for values,
    or combinations, that make no sense.

    ``interpolate``/``deblur`` switch the stages (deblur: "auto" sharpens blurred frames only, each in proportion to its
    blur, "on" all, "off" none).
    With none of ``fps``, ``multi`` and ``slowmo``, sources up to 30 fps are doubled and faster ones keep their rate.
    ``deinterlace``: "film" (undo pulldown), "fields" (a frame per field), "frames" (a progressive frame per frame),
    "off", or "auto": film and interlaced video as measured, the latter as fields if it is interpolated, else as frames.
    ``confidence_map``: a folder for a grey PNG per generated frame, named by its number in the output: white where it
    is reliable, black where it is a guess (see fpsgan.interpolator.synthesis).
    ``workers``: processes that make segments in parallel, on each of the ``devices`` (none: on ``device``);
    ``cluster``: the address of a Ray cluster to make them on, or "auto".
    ``engine``: what interpolates. "cpu": motion and colour by compiled code on the CPU, the network on ``device``;
    "torch": everything on ``device``, many pairs at once; "auto": torch, except on a CPU or with ``tile``.
    ``hwaccel``: "auto" decodes in hardware where that gives the same frames as software, "none" never does.
    ``resume``: keep finished segments when the job is interrupted, and continue from there (see fpsgan.segments).
    """

    interpolate: bool = True
    deblur: str = "auto"
    deblur_strength: float = 1.0
    fps: Fraction | None = None
    multi: Fraction | None = None
    slowmo: Fraction | None = None
    start: Fraction | None = None
    end: Fraction | None = None
    scene_threshold: float = SCENE_THRESHOLD
    dedup: str = "auto"
    weights: str | Path = "interpolator-base"
    deblur_weights: str | Path = "deblur-mobilenet"
    device: str = "auto"
    half: bool | None = None
    engine: str = "auto"
    hwaccel: str = "auto"
    tile: int = 0
    encode: EncodeOptions = dataclasses.field(default_factory=EncodeOptions)
    stream: int | None = None
    image_rate: Fraction = Fraction(24)
    conceal: bool = False
    deinterlace: str = "auto"
    overwrite: bool = False
    confidence_map: Path | None = None
    resume: bool = True
    workers: int = 1
    devices: tuple[str, ...] = ()
    cluster: str | None = None

    @property
    def scenes(self) -> SceneSettings:
        """What the scene stage is told."""
        return SceneSettings(self.scene_threshold, self.dedup)

    @property
    def deblurring(self) -> Settings:
        """What the deblurring stage, and deblur.Deblurrer, are told."""
        from deblur import Settings  # brings torch along, which takes seconds

        return Settings(self.deblur, self.deblur_strength)

    @property
    def retimed(self) -> bool:
        """Whether a rate, or a speed, was asked for."""
        return any(value is not None for value in (self.fps, self.multi, self.slowmo))

    def __post_init__(self) -> None:
        _ = self.scenes
        if self.retimed and not self.interpolate:
            raise OptionError("--fps, --multi and --slowmo need the interpolation stage")
        check_choice("--deblur", self.deblur, ("auto", "on", "off"))
        check_choice("--engine", self.engine, ENGINES)
        check_choice("--hwaccel", self.hwaccel, HWACCELS)
        check_choice("--deinterlace", self.deinterlace, MODES)
        if self.engine == "torch" and self.tile:
            raise OptionError("--tile: --engine torch works on whole frames; use --engine cpu")
        if not 0 <= self.deblur_strength <= 1:
            raise OptionError(f"--deblur-strength {self.deblur_strength}: must lie between 0 and 1")
        if self.start is not None and self.start < 0:
            raise OptionError(f"--start {float(self.start):g}: must not be negative")
        if self.end is not None and self.end <= (self.start or 0):
            raise OptionError(f"--end {float(self.end):g}: must come after --start {float(self.start or 0):g}")
        if self.workers < 1:
            raise OptionError(f"--workers {self.workers}: must be 1 or more")
        if self.image_rate <= 0:
            raise OptionError(f"--image-rate {self.image_rate}: must be above 0")
