from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from deblur.fpn import Deblur, DeblurConfig
from fpsgan import weights
from fpsgan.errors import OptionError, OutputError
from fpsgan.export import OPSET, Between, Sharpened, export
from fpsgan.interpolator import Interpolator, flow


@pytest.fixture
def generator() -> Deblur:
    """A small one that changes its input."""
    torch.manual_seed(0)
    network = Deblur(DeblurConfig(num_filters=8)).eval().requires_grad_(False)
    torch.nn.init.normal_(network.final.weight, std=0.05)
    return network


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_exported_generator_is_the_same_function_at_any_size(tmp_path: Path, generator: Deblur) -> None:
    path = weights.save(tmp_path / "small.safetensors", generator, {})
    file = export(path, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    network = weights.load(path)
    for size in ((64, 64), (97, 130), (160, 96)):
        image = torch.rand(1, 3, *size)
        (found,) = session.run(None, {"image": image.numpy()})
        expected = network(image)
        assert np.abs(found - expected.numpy()).max() < 1e-3 and float((expected - image).abs().mean()) > 0.02


@pytest.mark.parametrize("size", [(64, 65), (97, 130)])
def test_the_border_as_one_look_up_is_the_networks_own(size: tuple[int, int], generator: Deblur) -> None:
    image = torch.rand(2, 3, *size)
    assert float((Sharpened(generator)(image) - generator(image)).abs().max()) < 1e-5


def test_the_whole_interpolator_takes_two_frames_and_a_time() -> None:
    network = weights.load("interpolator-fast")
    assert isinstance(network, Interpolator)
    frame = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 16), scale_factor=8.0, mode="bicubic")
    frame0, frame1 = frame[..., :120], frame[..., 8:]
    with torch.inference_mode():
        found = Between(network)(frame0, frame1, torch.tensor([0.5]))
    truth = frame[..., 4:124]
    inside = np.s_[..., 16:-16, 16:-16]
    assert float((found - truth)[inside].abs().mean()) < 0.25 * float((frame0 - truth)[inside].abs().mean())


class _OfTheFlow(torch.nn.Module):
    """The steps of the optical flow that torch has an operation for and ONNX has not."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return flow._median3(x), flow._spanned((x > 1).any(3, keepdim=True)[:, :1], 2).float()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_flow_takes_no_operation_that_onnx_does_not_know(tmp_path: Path) -> None:
    """Exporting the whole interpolator takes minutes; these two steps are what kept it from working."""
    x = torch.randn(1, 2, 40, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, :12] = x[:, :, 30:] = 0
    file = tmp_path / "steps.onnx"
    torch.onnx.export(_OfTheFlow(), (x,), file, input_names=["x"], opset_version=OPSET, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    median, spanned = session.run(None, {"x": x.numpy()})
    around = torch.nn.functional.unfold(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3)
    assert np.array_equal(median, around.view(1, 2, 9, -1).median(2).values.view(x.shape).numpy())
    rows = torch.nonzero((x > 1).any(3)[0, 0]).flatten()
    first, last = int(rows[0]) - flow.MARGIN, int(rows[-1]) + flow.MARGIN
    assert np.flatnonzero(spanned).tolist() == [*range(first, last + 1)]


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"end in \.onnx"):
        export("deblur-mobilenet", tmp_path / "x.pt")
    with pytest.raises(OptionError, match="takes any size"):
        export("deblur-mobilenet", tmp_path / "x.onnx", size=(64, 64))
    with pytest.raises(OptionError, match="exported for one size"):
        export("interpolator-base", tmp_path / "x.onnx")
    (tmp_path / "x.onnx").touch()
    with pytest.raises(OutputError, match="exists already"):
        export("deblur-mobilenet", tmp_path / "x.onnx")
