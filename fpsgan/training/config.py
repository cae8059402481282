"""What a training run is told: one flat, typed config from a small TOML file and flags."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic import NonNegativeFloat as FromZero
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from deblur.fpn import DeblurConfig
from fpsgan.errors import InputError, OptionError
from fpsgan.interpolator import InterpolatorConfig

__all__ = ["NETWORKS", "TrainConfig", "load_config"]

NETWORKS = {"interpolator": InterpolatorConfig, "deblur": DeblurConfig}
LOSSES = {
    "interpolator": ("laplacian", "charbonnier", "census", "squared", "multilevel", "flow"),
    "deblur": ("charbonnier", "spectrum"),
}
# Found by trying, see docs/experiments.md and docs/deblur.md. A TOML file or a flag overrules each.
DEFAULTS: dict[str, dict[str, Any]] = {
    "interpolator": {
        "lr": 8e-4,
        "grad_clip": 10.0,
        "precision": "bf16-mixed",
        "losses": {"laplacian": 1.0, "flow": 0.1},
        "shares": {"clips": 6.0, "photos": 2.5, "animations": 1.5},
    },
    "deblur": {
        "crop": 96,
        "optimizer": "muon",
        "lr": 1e-3,
        "lr_min": 1e-5,
        "warmup": 50,
        "ema": 0.998,
        "weight_decay": 0.1,
        "precision": "bf16-mixed",
        "losses": {"charbonnier": 1.0, "spectrum": 0.5},
        "shares": {"clips": 1.0, "photos": 3.0},
    },
}
PATHS = ("data", "photos", "animations")

# pydantic's kinds of errors → what we say of them
WORDS = {
    "literal_error": "{given!r} is not known; allowed: {expected}",
    "greater_than": "must be above {gt:g}, not {given}",
    "greater_than_equal": "must be {ge:g} or more, not {given}",
    "less_than_equal": "a share from 0 to {le:g} is meant, not {given}",
    "multiple_of": "a multiple of {multiple_of} is needed, not {given}",
    "tuple_type": "a list of paths is needed, not {given!r}",
    "dict_type": "a table is needed, not {given!r}",
    "int_type": "a whole number is needed, not {given!r}",
    "float_type": "a number is needed, not {given!r}",
    "bool_type": "true or false is needed, not {given!r}",
    "string_type": "a text is needed, not {given!r}",
}
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class TrainConfig:
    """Everything that decides what a run learns, and a little about how. OptionError for what contradicts itself,
    pydantic's ValidationError for values of the wrong type or out of range.

    Sizes are in px, `batch` is samples per step and process, `lr_min` the rate at the end of the cosine. The run is
    `steps` long, or `max_minutes` where no steps are given; with both, the minutes only interrupt it (`--resume`).
    The last `adversarial` share of the run trains against a discriminator.
    """

    network: Literal["interpolator", "deblur"]
    data: tuple[str, ...] = ()  # data sets: folders with a manifest
    photos: tuple[str, ...] = ()  # pictures, or folders of them: rendered scenes, or shaken on purpose
    animations: tuple[str, ...] = ()  # Lottie files, or folders of them (interpolator)
    shares: dict[str, FromZero] = field(default_factory=dict)  # of the samples, by source: clips, photos, animations
    model: dict[str, Any] = field(default_factory=dict)  # the network's own config, e.g. widths
    fine_tune: str = ""  # weights to start from: a shipped name or a file

    crop: Annotated[int, Field(ge=64, multiple_of=32)] = 192  # whole cells of the deepest level
    batch: PositiveInt = 8
    steps: PositiveInt | None = None
    max_minutes: PositiveFloat | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: PositiveFloat = 2e-4
    lr_min: FromZero = 2e-6
    warmup: NonNegativeInt = 200  # steps
    weight_decay: FromZero = 1e-4
    grad_clip: PositiveFloat = 1.0  # largest norm of the gradient
    ema: Share = 0.999
    losses: dict[str, FromZero] = field(default_factory=dict)  # weight of each term
    augment: bool = True  # clips of the interpolator: false for footage like that which the weights are for
    max_gap: Annotated[int, Field(ge=2)] = 8  # clips: frames from frame0 to frame1 at most; 2 is doubling alone
    holds: bool = False  # animations also with drawings held for two and three frames
    drop_prior: Share = 0.15  # share of steps in which the interpolator has to do without the flow prior
    ramp: PositiveInt = 120_000  # deblur: samples until synthetic blur has grown to its full variety
    longest: Annotated[float, Field(ge=3)] = 24.0  # deblur: longest camera path, px
    freeze: Share = 0.0  # deblur: share of the run, at its start, in which the backbone stays as it is

    adversarial: Share = 0.0
    gan: Literal["ragan-ls", "lsgan", "wgan-gp"] = "ragan-ls"
    gan_width: PositiveInt = 64  # of the discriminators' first layer
    gan_lr: PositiveFloat = 1e-4  # of generator and discriminator in the adversarial stage
    gan_weight: FromZero = 0.01
    perceptual: FromZero = 0.006  # weight of the perceptual loss in the adversarial stage
    fidelity: FromZero = 1.0  # weight of `losses` in the adversarial stage

    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    device: str = "auto"
    workers: NonNegativeInt = 1  # processes that make samples; 0: none of their own
    validate_minutes: PositiveFloat = 5.0
    save_minutes: PositiveFloat = 2.0

    def __post_init__(self) -> None:
        """OptionError, in one line, for values that contradict each other."""
        if self.lr_min > self.lr:
            raise OptionError(f"lr_min: {self.lr_min} is above lr ({self.lr})")
        if self.steps is None and self.max_minutes is None:
            raise OptionError("how long? Give --steps or --max-minutes (or `steps` or `max_minutes` in the config)")
        if not (self.data or self.photos or self.animations):
            raise OptionError("nothing to train on: give --data (a folder made by `fpsgan dataset build`) or --photos")
        if self.animations and self.network == "deblur":
            raise OptionError("animations: only the interpolator learns from them")
        if self.freeze and self.network != "deblur":
            raise OptionError("freeze: only the deblurring network has a backbone")
        for name, allowed in (("losses", LOSSES[self.network]), ("shares", ("clips", "photos", "animations"))):
            for key in getattr(self, name):
                if key not in allowed:
                    raise OptionError(f"{name}: {key!r} is not known; allowed: {', '.join(allowed)}")
        if not any(self.losses.values()):
            raise OptionError("losses: at least one needs a weight above 0")
        if self.fine_tune and self.model:
            raise OptionError("model: the weights given by fine_tune bring their own; leave one of the two out")
        try:
            NETWORKS[self.network](**self.model)
        except (TypeError, ValueError) as error:
            raise OptionError(f"model: {error}") from error


def load_config(path: Path | None, flags: Mapping[str, Any]) -> TrainConfig:
    """The network's defaults, overruled by the TOML file, overruled by `flags` (None: not given).

    Paths in the file are relative to the file. InputError where it cannot be read, OptionError for a key that does not
    exist, a value of the wrong type or a contradiction.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise OptionError(f"{path}: not TOML ({error})") from error
        for key in PATHS:
            if isinstance(table.get(key), str):
                table[key] = [table[key]]
            if isinstance(table.get(key), list):
                table[key] = [str(path.parent / str(place)) for place in table[key]]
    given = {key: value for key, value in flags.items() if value is not None}
    where = f"{path}: " if path is not None else ""
    network = given.get("network", table.get("network"))
    if table.get("network", network) != network:
        raise OptionError(f"{where}is for the {table['network']}, not the {network}")
    values = {**DEFAULTS.get(str(network), {}), **table, **given}
    for key in PATHS:
        if isinstance(values.get(key), list):
            values[key] = tuple(map(str, values[key]))
    try:
        return TrainConfig(**values)
    except ValidationError as error:
        raise OptionError(where + _line(error.errors()[0])) from error


def _line(error: ErrorDetails) -> str:
    """What pydantic found, in the words of this command line."""
    name, given, words = ": ".join(map(str, error["loc"])), error["input"], WORDS.get(error["type"], error["msg"])
    if error["type"] == "unexpected_keyword_argument":
        close = difflib.get_close_matches(name, [f.name for f in dataclasses.fields(TrainConfig)], 1)
        return f"there is no option {name!r}" + (f"; {close[0]} is meant?" if close else "")
    if error["type"] == "missing":
        return f"{name} is missing: {' or '.join(NETWORKS)}"
    return f"{name}: " + words.format(given=given, **error.get("ctx", {}))


def differences(one: TrainConfig, other: TrainConfig) -> list[str]:
    """Names of the fields that differ and decide what is learned (not where or how long it runs)."""
    free = {"max_minutes", "device", "workers", "validate_minutes", "save_minutes"}
    return [
        f.name for f in dataclasses.fields(one) if f.name not in free and getattr(one, f.name) != getattr(other, f.name)
    ]
