"""Published checkpoints: a state dict in their layout, with its doubles and its unused layers, and broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deblur.backbones import InvertedResidual
from deblur.checkpoint import load_published
from deblur.fpn import Deblur, DeblurConfig

# Of the classification network, in the order it holds them: what each stage of the pyramid is made of.
STAGES = {
    "mobilenet": [[0, 1], [2, 3], [4, 5, 6], [7, 8, 9, 10], [11, 12, 13, 14, 15]],
    "inception": [
        ["conv2d_1a"],
        ["conv2d_2a", "conv2d_2b"],
        ["conv2d_3b", "conv2d_4a"],
        ["mixed_5b", "repeat", "mixed_6a"],
        ["repeat_1", "mixed_7a"],
    ],
}


def published(network: Deblur) -> dict[str, Tensor]:
    """The state dict as the authors' training saves it."""
    backbone = network.config.backbone
    prefix = "features" if backbone == "mobilenet" else "inception"
    state = {}
    for name, value in network.state_dict().items():
        state[f"module.{name}"] = value
        if name.startswith("fpn.enc"):
            level, rest = int(name[7]), name[9:]
            index = 0
            if (backbone, level) != ("inception", 0):  # that stage is a single module
                first, rest = rest.split(".", 1)
                index = int(first)
            state[f"module.fpn.{prefix}.{STAGES[backbone][level][index]}.{rest}"] = value
    unused: dict[str, nn.Module] = {"features.16": InvertedResidual(160, 160, 1, 6, nn.BatchNorm2d)}
    if backbone == "inception":
        unused = {"inception.conv2d_7b.conv": nn.Conv2d(8, 8, 1), "inception.last_linear": nn.Linear(8, 4)}
    for name, module in unused.items():
        state.update({f"module.fpn.{name}.{key}": value for key, value in module.state_dict().items()})
    return state


def trained(config: DeblurConfig) -> Deblur:
    """A network with statistics and a last layer that are not those it starts with."""
    torch.manual_seed(0)
    network = Deblur(config).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    nn.init.normal_(network.final.weight, std=0.02)
    return network


def stored(tmp_path: Path, state: object) -> Path:
    torch.save(state, tmp_path / "fpn.h5")
    return tmp_path / "fpn.h5"


@pytest.mark.parametrize("backbone", ["mobilenet", "inception"])
@pytest.mark.parametrize("keep", ["both", "stages", "classification"])
def test_a_published_checkpoint_loads(tmp_path: Path, backbone: str, keep: str) -> None:
    network = trained(DeblurConfig(backbone, 8, undo_shake=False))
    state = published(network)
    assert any(name.startswith(f"module.fpn.{'features.16' if backbone == 'mobilenet' else 'inc'}") for name in state)
    drop = {"both": "-", "stages": "module.fpn.features module.fpn.inception", "classification": "module.fpn.enc"}[keep]
    state = {name: value for name, value in state.items() if not name.startswith(tuple(drop.split()))}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    loaded = load_published(stored(tmp_path, {"model": state}), norm="running")
    assert loaded.config == network.config and not loaded.training
    image = torch.rand(1, 3, 128, 128)
    assert torch.equal(loaded(image), network(image))
    assert load_published(tmp_path / "fpn.h5").config.norm == "instance"


def test_missing_and_misshapen_keys_are_named(tmp_path: Path) -> None:
    state = published(trained(DeblurConfig(num_filters=8)))
    lacking = {name: value for name, value in state.items() if "head2.block1" not in name}
    with pytest.raises(ValueError, match=r"lacks head2\.block1\.weight"):
        load_published(stored(tmp_path, {"model": lacking}))
    gone = ("module.fpn.enc3.1.conv.0.weight", "module.fpn.features.8.conv.0.weight")
    lacking = {name: value for name, value in state.items() if name not in gone}
    with pytest.raises(ValueError, match=r"lacks fpn.enc3.1.conv.0.weight and fpn.features.8.conv.0.weight"):
        load_published(stored(tmp_path, {"model": lacking}))
    state["module.smooth.0.weight"] = torch.zeros(8, 16, 3, 3)
    with pytest.raises(ValueError, match=r"smooth.0.weight has shape \[8, 16, 3, 3\], but \[8, 32, 3, 3\] is needed"):
        load_published(stored(tmp_path, {"model": state}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "no state dict under 'model'"),
        ({"model": {"a": 1}}, "no state dict under 'model'"),
        ([1, 2], "no state dict under 'model'"),
        ({"model": {"module.a": torch.zeros(1)}}, "'final.weight' is missing"),
        ({"model": Path("code")}, "not a checkpoint of tensors alone"),  # a pickle that would have to import something
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_published(stored(tmp_path, content))
    assert "\n" not in str(caught.value) and "fpn.h5" in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fpn.h5").write_bytes(b"no tensors in here" * 9)
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_published(tmp_path / "fpn.h5")
    with pytest.raises(ValueError, match=r"none\.h5: not a checkpoint"):
        load_published(tmp_path / "none.h5")


def test_instance_statistics_are_each_pictures_own() -> None:
    """What the published code computes in training mode: the reference is torch's own norms, told to use the batch."""
    network = trained(DeblurConfig(num_filters=8, norm="instance"))
    images = torch.rand(2, 3, 64, 96) * torch.tensor([0.2, 1.0]).view(2, 1, 1, 1)
    output = network(images)
    assert torch.allclose(output[:1], network(images[:1]), atol=1e-5)
    reference = Deblur(DeblurConfig(num_filters=8)).train().requires_grad_(False)
    reference.load_state_dict(network.state_dict())
    assert torch.allclose(network(images[1:]), reference(images[1:]), atol=1e-5)
    fixed = Deblur(DeblurConfig(num_filters=8)).eval()
    fixed.load_state_dict(network.state_dict())
    assert (fixed(images) - output).abs().max() > 1e-3
