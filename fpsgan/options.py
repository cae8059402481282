"""What the user may ask of a job: one place, checked once; the job hands each stage its part."""

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
    """What the user may ask. Rates and times are exact Fractions, times in seconds. Raises OptionError for values, or
    combinations, that make no sense.

    ``interpolate``/``deblur`` switch the stages (deblur: "auto" touches blurred frames only, each by
    as much as it is blurred, "on" all, "off" none).
    With none of ``fps``, ``multi`` and ``slowmo``, sources up to 30 fps are doubled and faster ones keep their rate.
    ``deinterlace``: "film" (pulldown undone), "fields" (each a moment of its own), "frames" (progressive, as many),
    "off", or "auto" by what is found: film, and else fields where it interpolates, frames where it does not.
    ``confidence_map``: a folder that receives a grey PNG for every generated frame, named by its number in the output:
    white where it can be believed, black where it is a guess (see fpsgan.interpolator.synthesis).
    ``workers``: processes that make segments side by side, on each of the ``devices`` (none: on ``device``);
    ``cluster``: the address of a Ray cluster that makes them, or "auto".
    ``engine``: what interpolates. "cpu": motion and colour by compiled code on the CPU, the network on ``device``;
    "torch": all of a pair on ``device``, many pairs at once; "auto": torch but on a CPU or with ``tile``.
    ``hwaccel``: "auto" decodes on a graphics chip where one gives the same frames as software, "none" never does.
    ``resume``: keep what is finished when the job is ended, and go on from there (see fpsgan.segments).
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
