"""What a training run is told: one flat, typed config from a small TOML file and flags."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deblur.fpn import DeblurConfig
from fpsgan.errors import InputError, OptionError
from fpsgan.interpolator import InterpolatorConfig

__all__ = ["NETWORKS", "TrainConfig", "load_config"]

NETWORKS = {"interpolator": InterpolatorConfig, "deblur": DeblurConfig}
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
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


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run learns, and a little about how. OptionError for what contradicts itself.

    Sizes are in px, `batch` is samples per step and process, `lr_min` the rate at the end of the cosine. The run is
    `steps` long, or `max_minutes` where no steps are given; with both, the minutes only interrupt it (`--resume`).
    The last `adversarial` share of the run trains against a discriminator.
    """

    network: str
    data: tuple[str, ...] = ()  # data sets: folders with a manifest
    photos: tuple[str, ...] = ()  # pictures, or folders of them: rendered scenes, or shaken on purpose
    animations: tuple[str, ...] = ()  # Lottie files, or folders of them (interpolator)
    shares: dict[str, float] = field(default_factory=dict)  # of the samples, by source: clips, photos, animations
    model: dict[str, Any] = field(default_factory=dict)  # the network's own config, e.g. widths
    fine_tune: str = ""  # weights to start from: a shipped name or a file

    crop: int = 192
    batch: int = 8
    steps: int | None = None
    max_minutes: float | None = None
    optimizer: str = "adamw"
    lr: float = 2e-4
    lr_min: float = 2e-6
    warmup: int = 200  # steps
    weight_decay: float = 1e-4
    grad_clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999
    losses: dict[str, float] = field(default_factory=dict)  # weight of each term
    augment: bool = True  # clips of the interpolator: false for footage like that which the weights are for
    max_gap: int = 8  # clips: frames from frame0 to frame1 at most; 2 is doubling alone
    holds: bool = False  # animations also with drawings held for two and three frames
    drop_prior: float = 0.15  # share of steps in which the interpolator has to do without the flow prior
    ramp: int = 120_000  # deblur: samples until synthetic blur has grown to its full variety
    longest: float = 24.0  # deblur: longest camera path, px
    freeze: float = 0.0  # deblur: share of the run, at its start, in which the backbone stays as it is

    adversarial: float = 0.0
    gan: str = "ragan-ls"
    gan_width: int = 64  # of the discriminators' first layer
    gan_lr: float = 1e-4  # of generator and discriminator in the adversarial stage
    gan_weight: float = 0.01
    perceptual: float = 0.006  # weight of the perceptual loss in the adversarial stage
    fidelity: float = 1.0  # weight of `losses` in the adversarial stage

    seed: int = 0
    precision: str = "32-true"
    device: str = "auto"
    workers: int = 1  # processes that make samples; 0: none of their own
    validate_minutes: float = 5.0
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        """OptionError, in one line, for whatever cannot be meant."""
        choices = {
            "network": (self.network, tuple(NETWORKS)),
            "precision": (self.precision, PRECISIONS),
            "optimizer": (self.optimizer, ("adamw", "muon")),
            "gan": (self.gan, ("ragan-ls", "lsgan", "wgan-gp")),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise OptionError(f"{name}: {value!r} is not known; allowed: {', '.join(allowed)}")
        for name in (
            "crop",
            "batch",
            "lr",
            "grad_clip",
            "validate_minutes",
            "save_minutes",
            "gan_lr",
            "gan_width",
            "ramp",
        ):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name}: must be above 0, not {getattr(self, name)}")
        for name in ("workers", "warmup", "weight_decay", "lr_min", "gan_weight", "perceptual", "fidelity"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name}: must be 0 or more, not {getattr(self, name)}")
        for name in ("adversarial", "ema", "drop_prior", "freeze"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name}: a share from 0 to 1 is meant, not {getattr(self, name)}")
        multiple = 32  # whole cells of the deepest level
        if self.crop % multiple or self.crop < 64:
            raise OptionError(f"crop: a multiple of {multiple} from 64 up is needed, not {self.crop}")
        if self.lr_min > self.lr:
            raise OptionError(f"lr_min: {self.lr_min} is above lr ({self.lr})")
        if self.max_gap < 2:
            raise OptionError(f"max_gap: a frame between two others needs 2 or more, not {self.max_gap}")
        if self.longest < 3:
            raise OptionError(f"longest: 3 px or more, not {self.longest}")
        if self.steps is None and self.max_minutes is None:
            raise OptionError("how long? Give --steps or --max-minutes (or `steps` or `max_minutes` in the config)")
        for name in ("steps", "max_minutes"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise OptionError(f"{name}: must be above 0, not {value}")
        if not (self.data or self.photos or self.animations):
            raise OptionError("nothing to train on: give --data (a folder made by `fpsgan dataset build`) or --photos")
        if self.animations and self.network == "deblur":
            raise OptionError("animations: only the interpolator learns from them")
        if self.freeze and self.network != "deblur":
            raise OptionError("freeze: only the deblurring network has a backbone")
        for name, allowed in (("losses", LOSSES[self.network]), ("shares", ("clips", "photos", "animations"))):
            for key, value in getattr(self, name).items():
                if key not in allowed:
                    raise OptionError(f"{name}: {key!r} is not known; allowed: {', '.join(allowed)}")
                if not isinstance(value, int | float) or value < 0:
                    raise OptionError(f"{name}: {key} must be a number from 0 up, not {value!r}")
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
    if "network" in given and "network" in table and given["network"] != table["network"]:
        raise OptionError(f"{where}is for the {table['network']}, not the {given['network']}")
    known = typing.get_type_hints(TrainConfig)
    for key in {**table, **given}:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; {close[0]} is meant?" if close else ""
            raise OptionError(f"{where}there is no option {key!r}{hint}")
    values: dict[str, Any] = {**DEFAULTS.get(str(network), {}), **table, **given}
    for key, value in values.items():
        values[key] = _typed(value, known[key], f"{where}{key}")
    if "network" not in values:
        raise OptionError(f"{where}network is missing: {' or '.join(NETWORKS)}")
    return TrainConfig(**values)


def _typed(value: Any, kind: Any, what: str) -> Any:
    """`value` as the annotation `kind` wants it. OptionError if it is something else."""
    if isinstance(kind, types.UnionType):
        kind = kind.__args__[0]  # int | None, float | None
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(value, list | tuple) and all(isinstance(v, str | Path) for v in value):
        return tuple(str(v) for v in value)
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is not tuple and isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    names = {tuple: "a list of paths", dict: "a table", int: "a whole number", float: "a number", str: "a text"}
    raise OptionError(f"{what}: {names.get(origin, 'true or false')} is needed, not {value!r}")


def differences(one: TrainConfig, other: TrainConfig) -> list[str]:
    """Names of the fields that differ and decide what is learned (not where or how long it runs)."""
    free = {"max_minutes", "device", "workers", "validate_minutes", "save_minutes"}
    return [
        f.name for f in dataclasses.fields(one) if f.name not in free and getattr(one, f.name) != getattr(other, f.name)
    ]
