"""The rearranged generator is the same function."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from deblur import folded
from deblur.folded import FoldedDeblur
from deblur.fpn import PUBLISHED, Deblur, DeblurConfig

CONFIGS = [
    *PUBLISHED.values(),
    DeblurConfig(num_filters=6, separable=True),
    DeblurConfig("inception", 8, separable=True),
]


def trained(config: DeblurConfig) -> Deblur:
    """Norms that have seen images, and a result as large as a real one's: some 4 codes of 255."""
    torch.manual_seed(0)
    network = Deblur(config).requires_grad_(False).train()
    torch.nn.init.normal_(network.final.weight, std=0.01)
    for _ in range(20):
        network(torch.rand(2, 3, 128, 128))
    image = torch.rand(1, 3, 128, 128)
    network.final.weight *= 4 / 255 / (network.eval()(image) - image).abs().mean()
    return network


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_it_computes_the_same(config: DeblurConfig) -> None:
    network, image = trained(config), torch.rand(2, 3, 97, 150)
    expected = network(image)
    assert (expected - image).abs().mean() > 2 / 255
    quick = FoldedDeblur(network)
    assert (quick(image) - expected).abs().max() < 0.1 / 255
    with patch.object(folded, "onednn_rectifies", lambda: False):
        assert (quick(image) - expected).abs().max() < 0.1 / 255
    assert torch.equal(network(image), expected), "the network it was made from has changed"
    half = quick.to(dtype=torch.bfloat16, memory_format=torch.channels_last)(image)
    error = (half - expected).abs()  # noise, and a network of noise, ask more than a real picture does
    assert half.dtype == torch.float32 and error.mean() < 0.4 / 255 and error.flatten().quantile(0.999) < 2.5 / 255


def test_untrained_it_returns_its_input_to_the_bit_also_in_half_precision() -> None:
    image = torch.rand(1, 3, 40, 50)
    assert torch.equal(FoldedDeblur(Deblur(DeblurConfig(num_filters=8))).bfloat16()(image), image)


def test_instance_statistics_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="cannot be folded"):
        FoldedDeblur(Deblur(DeblurConfig(num_filters=8, norm="instance")))


@pytest.mark.parametrize("image", [torch.rand(1, 1, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])
def test_it_refuses_what_the_network_refuses(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="need"):
        FoldedDeblur(Deblur(DeblurConfig(num_filters=8)))(image)
