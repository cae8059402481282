"""Weights: safetensors files that rebuild their own network (no pickle, no code in them).

A file carries three metadata strings: ``architecture`` ("interpolator", "deblur" or "motion"), ``config`` (the
network's dataclass as JSON) and ``card`` (where it comes from, as JSON). The files shipped with the package lie beside
this module with their model cards; ``SHA256SUMS`` (the format of sha256sum) lets ``load`` refuse a damaged one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from deblur.checkpoint import load_published
from deblur.fpn import Deblur, DeblurConfig
from deblur.motion import MotionBlur, MotionConfig
from fpsgan.errors import InputError, OptionError, OutputError, WeightsError
from fpsgan.interpolator import Interpolator, InterpolatorConfig
from fpsgan.video.files import whole

__all__ = ["bundled", "convert", "digest", "load", "metadata", "save", "verify"]

FOLDER = Path(__file__).parent
ARCHITECTURES: dict[str, tuple[type[Any], type[Any]]] = {
    "interpolator": (InterpolatorConfig, Interpolator),
    "deblur": (DeblurConfig, Deblur),
    "motion": (MotionConfig, MotionBlur),
}


def bundled() -> dict[str, Path]:
    """The weights shipped with this package: name → file."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def metadata(name_or_path: str | Path) -> dict[str, Any]:
    """``{"architecture", "config", "card", "parameters"}`` of a weights file, without loading the tensors.

    Raises WeightsError if there is no such file, or it is not one of ours.
    """
    path = _resolve(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch or train it again") from error
    if header.get("architecture") not in ARCHITECTURES or "config" not in header:
        raise WeightsError(f"{path}: a safetensors file, but not one that fpsGAN wrote (it names no architecture)")
    return {
        "architecture": header["architecture"],
        "config": json.loads(header["config"]),
        "card": json.loads(header.get("card", "{}")),
        "parameters": sum(int(torch.Size(shape).numel()) for shape in shapes),
    }


def digest(name_or_path: str | Path) -> str:
    """The sha256 of a weights file. Raises WeightsError if there is no such file."""
    return hashlib.sha256(_resolve(name_or_path).read_bytes()).hexdigest()


def verify(name: str) -> str:
    """Check a shipped file against SHA256SUMS and return its sha256. Raises WeightsError where they differ."""
    path, found = _resolve(name), digest(name)
    sums = {file: sha for sha, file in map(str.split, (FOLDER / "SHA256SUMS").read_text().splitlines())}
    if sums.get(path.name) != found:
        raise WeightsError(f"{path}: damaged (its sha256 is not the one in SHA256SUMS); install fpsgan again")
    return found


@overload
def load(
    name_or_path: str | Path, device: str | torch.device = "cpu", *, expect: Literal["interpolator"]
) -> Interpolator: ...


@overload
def load(name_or_path: str | Path, device: str | torch.device = "cpu", *, expect: Literal["deblur"]) -> Deblur: ...


@overload
def load(name_or_path: str | Path, device: str | torch.device = "cpu", *, expect: Literal["motion"]) -> MotionBlur: ...


@overload
def load(name_or_path: str | Path, device: str | torch.device = "cpu", *, expect: None = None) -> nn.Module: ...


def load(name_or_path: str | Path, device: str | torch.device = "cpu", *, expect: str | None = None) -> nn.Module:
    """Rebuild a network from its weights file: fp32, eval mode, on ``device``.

    ``name_or_path`` is the name of shipped weights (see ``bundled``) or a .safetensors file; ``expect`` names the
    architecture the caller needs. Raises WeightsError for anything unknown, damaged or made for another network.
    """
    path = _resolve(name_or_path)
    facts = metadata(path)
    if expect is not None and facts["architecture"] != expect:
        raise WeightsError(f"{path}: weights of the {facts['architecture']} network, but {expect} weights are needed")
    if path.parent == FOLDER:
        verify(path.stem)
    config_class, network_class = ARCHITECTURES[facts["architecture"]]
    try:
        network: nn.Module = network_class(config_class(**facts["config"]))
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"{path}: does not fit this version's {facts['architecture']} network: {reason}") from error
    return network.to(device).eval().requires_grad_(False)


def save(path: str | Path, network: nn.Module, card: dict[str, str]) -> Path:
    """Write ``network`` (an Interpolator, a Deblur or a MotionBlur) as safetensors, whole or not at all.

    Parameters go in half precision. Norms' statistics do not: their variances pass its 65504.
    """
    path = Path(path)
    architecture = next((name for name, (_, kind) in ARCHITECTURES.items() if isinstance(network, kind)), None)
    if architecture is None:
        raise WeightsError(f"{type(network).__name__} is none of {', '.join(ARCHITECTURES)}")
    settings: Any = network.config
    config = json.dumps(dataclasses.asdict(settings))
    parameters = dict(network.named_parameters())
    tensors = {
        name: (value.half() if name in parameters else value).contiguous().cpu()
        for name, value in network.state_dict().items()
    }
    try:
        with whole(path) as part:
            save_file(tensors, part, {"architecture": architecture, "config": config, "card": json.dumps(card)})
    except SafetensorError as error:
        raise OutputError(f"{path}: cannot write the weights ({error})") from error
    return path


def convert(checkpoint: str | Path, target: str | Path, *, norm: str = "instance", overwrite: bool = False) -> Path:
    """Make a weights file of a published DeblurGAN-v2 checkpoint (`fpn_inception.h5`, `fpn_mobilenet.h5`).

    ``norm``: "instance" runs it with each picture's own statistics, as its authors do, "running" with those seen in
    training. Raises InputError if there is no such file, WeightsError for one that is no such checkpoint or lacks
    something, OptionError for another ``norm`` or suffix, OutputError where the target is there already.
    """
    checkpoint, target = Path(checkpoint), Path(target)
    if norm not in ("instance", "running"):
        raise OptionError(f"--norm {norm}: must be instance or running")
    if target.suffix != ".safetensors":
        raise OptionError(f"{target}: weights files end in .safetensors")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; -y replaces it")
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such file")
    try:
        network = load_published(checkpoint, norm=norm)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    found = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return save(target, network, {"converted from": checkpoint.name, "its sha256": found})


def _resolve(name_or_path: str | Path) -> Path:
    shipped = bundled()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise WeightsError(f"{name_or_path}: neither a weights file nor one of {', '.join(shipped) or 'none shipped'}")
    return path
