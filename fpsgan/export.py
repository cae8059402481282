"""Networks as ONNX, for programs that run them without fpsGAN: VapourSynth's vs-mlrt, onnxruntime, TensorRT.

A deblurring generator takes any size from 64 px a side (Inception: 128). The interpolator is exported as a whole, with
its optical flow, for frames of one size, which determines the levels of its pyramids. Needs
`pip install 'fpsgan[export]'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deblur.fpn import MULTIPLE, Deblur
from fpsgan import weights
from fpsgan.errors import OptionError, OutputError, SetupError
from fpsgan.interpolator import Interpolator
from fpsgan.interpolator.flow import find_flow
from fpsgan.video.files import whole

__all__ = ["Between", "export"]

OPSET = 18


class Sharpened(nn.Module):
    """`Deblur` with its mirrored border as a single gather, so that one graph serves every size."""

    def __init__(self, network: Deblur) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """RGB [B,3,H,W] → RGB [B,3,H,W], both 0..1."""
        outer = image
        begins = []
        for dim in (2, 3):
            side = image.shape[dim]
            whole_side = (side + MULTIPLE - 1) // MULTIPLE * MULTIPLE
            begins.append(whole_side // 2 - (side + 1) // 2)  # half of what is missing, in a form that exports well
            place = (torch.arange(whole_side, device=image.device) - begins[-1]).abs()
            outer = outer.index_select(dim, torch.where(place < side, place, 2 * side - 2 - place))
        change = self.network.residual(outer * 2 - 1)
        change = change.narrow(2, begins[0], image.shape[2]).narrow(3, begins[1], image.shape[3])
        return (image + change / 2).clamp(0, 1)


class Between(nn.Module):
    """The interpolator from two frames to the one between: luma, flow both ways, network, compensation.

    Without what takes a sequence of frames: acceleration, overlays, exposure, cuts.
    """

    def __init__(self, network: Interpolator) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame0: Tensor, frame1: Tensor, t: Tensor) -> Tensor:
        """[B,3,H,W] RGB 0..1 twice and t [B] in (0, 1) to [B,3,H,W]."""
        grey0, grey1 = (
            255 * (0.2126 * frame[:, :1] + 0.7152 * frame[:, 1:2] + 0.0722 * frame[:, 2:]) for frame in (frame0, frame1)
        )
        flows = find_flow(grey0, grey1, self.network.config.prior)
        return self.network.generate(frame0, frame1, self.network.prepare(frame0, frame1, flows), t)[0]


def export(
    name_or_path: str | Path, target: str | Path, *, size: tuple[int, int] | None = None, overwrite: bool = False
) -> Path:
    """Write weights as an ONNX file, atomically. Inputs and outputs are fp32 RGB, 0..1, [1,3,H,W].

    Args:
        name_or_path: shipped weights, or a .safetensors file, of either network.
        target: the file; its name ends in .onnx.
        size: (width, height) of the interpolator's frames; not for a deblurring generator.

    Raises WeightsError for weights that cannot be loaded, OptionError for a wrong size or name, OutputError if the
    target exists, SetupError if the exporter's packages are missing.
    """
    target = Path(target)
    if target.suffix != ".onnx":
        raise OptionError(f"{target}: ONNX files end in .onnx")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; -y replaces it")
    network = weights.load(name_or_path)
    model: nn.Module
    dynamic: Any = None
    if isinstance(network, Deblur):
        if size is not None:
            raise OptionError("--size: a deblurring network takes any size; leave it out")
        least = 128 if network.config.backbone == "inception" else 64
        dynamic = ({2: torch.export.Dim("height", min=least), 3: torch.export.Dim("width", min=least)},)
        inputs = {"image": torch.rand(1, 3, least + 5, least + 29)}
        model, output = Sharpened(network), "sharp"
    else:
        assert isinstance(network, Interpolator)
        if size is None or min(size) < 16:
            raise OptionError(f"--size {size}: the interpolator is exported for one size, such as 1920x1080")
        frame0, frame1 = torch.rand(2, 1, 3, size[1], size[0])
        inputs = {"frame0": frame0, "frame1": frame1, "t": torch.tensor([0.5])}
        model, output = Between(network), "frame"
    try:
        program = torch.onnx.export(
            model.eval(), tuple(inputs.values()), dynamo=True, opset_version=OPSET, input_names=list(inputs),
            output_names=[output], dynamic_shapes=dynamic, verbose=False,
        )  # fmt: skip
    except ImportError as error:
        raise SetupError(
            f"exporting needs packages that are not installed ({error}); pip install 'fpsgan[export]'"
        ) from error
    assert program is not None
    with whole(target) as part:
        program.save(str(part))
    return target
