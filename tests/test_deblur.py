"""The deblurring generator: published size and cost, any picture size, values, determinism, precision."""

import copy
import dataclasses
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deblur.fpn import PUBLISHED, Deblur, DeblurConfig


@pytest.fixture(scope="module")
def network():
    """An untrained network whose last layer is not zero, so that every part of it shows in the output."""
    torch.manual_seed(0)
    network = Deblur(DeblurConfig(num_filters=16)).eval().requires_grad_(False)
    torch.nn.init.normal_(network.final.weight, std=0.02)
    return network


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "published"),
    [("inception", 35.84, 273.9, 410.0), ("mobilenet", 2.11, 38.9, 43.5), ("mobilenet-dsc", 1.19, 10.0, 14.6)],
)
def test_used_parameters_and_cost_are_the_published_ones(name, parameters, macs, published):
    """The paper's table 1 counts the backbone, which its code registers twice, twice."""
    network = Deblur(PUBLISHED[name]).eval()
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(parameters, rel=5e-3)
    network, image = network.to("meta"), torch.empty(1, 3, 736, 1280, device="meta")
    with FlopCounterMode(display=False) as whole, torch.no_grad():
        network(image)
    with FlopCounterMode(display=False) as backbone, torch.no_grad():
        network.fpn.encode(image)
    once, again = (counter.get_total_flops() / 2e9 for counter in (whole, backbone))
    assert once == pytest.approx(macs, rel=5e-3) and once + again == pytest.approx(published, rel=5e-3)


def test_names_are_those_of_the_published_checkpoints():
    keys = Deblur().state_dict().keys()
    for key in (
        "fpn.enc0.0.0.weight",
        "fpn.enc0.1.conv.3.weight",
        "fpn.enc4.4.conv.7.running_var",
        "fpn.lateral0.weight",
        "fpn.td3.1.running_mean",
        "head1.block0.weight",
        "smooth.0.bias",
        "smooth2.0.weight",
        "final.bias",
    ):
        assert key in keys
    assert not any("lateral" in key and "bias" in key for key in keys)


def test_untrained_it_returns_its_input():
    image = torch.rand(1, 3, 40, 50)
    assert torch.allclose(Deblur(DeblurConfig(num_filters=8)).eval()(image), image, atol=1e-6)


@pytest.mark.parametrize("height, width", [(16, 16), (17, 31), (33, 64), (64, 47), (90, 16)])
def test_any_size_comes_back_in_its_own_size(network, height, width):
    output = network(torch.rand(2, 3, height, width))
    assert output.shape == (2, 3, height, width)
    assert output.min() >= 0 and output.max() <= 1


@pytest.mark.parametrize("config", [DeblurConfig("inception", 4), DeblurConfig(num_filters=4, norm="instance")])
@pytest.mark.parametrize("height, width", [(16, 17), (40, 200)])
def test_any_size_with_other_configs(config, height, width):
    output = Deblur(config).eval()(torch.rand(1, 3, height, width))
    assert output.shape == (1, 3, height, width) and bool(output.isfinite().all())


def test_padding_mirrors_the_picture(network):
    image = torch.rand(1, 3, 48, 40)  # grows to 64×64: 8 px above and below, 12 px left and right
    mirrored = torch.nn.functional.pad(image, (12, 12, 8, 8), mode="reflect")
    assert torch.allclose(network(image), network(mirrored)[..., 8:56, 12:52], atol=1e-6)


def test_a_picture_does_not_depend_on_its_batch_or_on_repetition(network):
    images = torch.rand(3, 3, 64, 64) * torch.tensor([0.1, 1.0, 0.5]).view(3, 1, 1, 1)
    together = network(images)
    assert torch.equal(together, network(images))
    assert torch.allclose(together[:1], network(images[:1]), atol=1e-5)


def test_a_tile_agrees_with_the_whole_where_its_border_is_out_of_sight(network):
    """Nothing global (such as statistics of the frame) enters: 288 px inside, a tile equals the whole."""
    image = torch.rand(1, 3, 32, 768)
    tile = network(image[..., 64:704])  # cut at multiples of 32, so that the grids agree
    assert torch.allclose(tile[..., 288:352], network(image)[..., 352:416], atol=1e-5)


def test_values_slightly_outside_the_range_are_legal(network):
    output = network(torch.rand(1, 3, 32, 32) * 1.1 - 0.05)
    assert output.min() >= 0 and output.max() <= 1 and bool(output.isfinite().all())


def test_bf16_and_channels_last_agree_with_fp32(network):
    image = torch.rand(1, 3, 64, 64)
    expected = network(image)
    last = network.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(last, expected, atol=1e-4)
    half = Deblur(network.config).eval()
    half.load_state_dict(network.state_dict())
    output = half.bfloat16()(image.bfloat16())
    assert output.dtype == torch.bfloat16
    assert (output.float() - expected).abs().mean() < 0.01


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(3, 32, 32),
        torch.rand(1, 1, 32, 32),
        torch.rand(1, 3, 15, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_other_shapes_and_types_are_refused(network, image):
    with pytest.raises(ValueError, match="need"):
        network(image)


def test_config_survives_json_and_refuses_what_is_not_built():
    config = DeblurConfig(num_filters=32)
    assert DeblurConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(ValueError, match="mobilenet"):
        DeblurConfig(backbone="resnet")
    with pytest.raises(ValueError, match="norm 'batch'"):
        DeblurConfig(norm="batch")
    with pytest.raises(ValueError, match="num_filters"):
        DeblurConfig(num_filters=7)


def test_gradients_reach_every_parameter(network):
    network = copy.deepcopy(network).train().requires_grad_(True)
    network(torch.rand(2, 3, 64, 64)).sub(0.5).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        if not name.endswith("0.bias"):  # a bias before a norm has no effect in training
            assert parameter.grad.abs().max() > 0, name
