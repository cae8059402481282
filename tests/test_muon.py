"""The optimizer of the deblurring network."""

from __future__ import annotations

import torch
from torch import nn

from fpsgan.training.muon import Muon, orthogonal


def test_the_step_of_a_matrix_is_orthogonal() -> None:
    torch.manual_seed(0)
    for rows, columns in ((8, 30), (30, 8)):  # a tall one is longer by √(rows/columns)
        step = orthogonal(torch.randn(rows, columns)) / max(1.0, rows / columns) ** 0.5
        assert torch.linalg.svdvals(step).sub(1).abs().max() < 0.4


def test_it_has_every_weight_and_lowers_a_loss() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3))
    optimizer = Muon(network, fine="2")
    held = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert held == sum(p.numel() for p in network.parameters())
    image = torch.rand(2, 3, 20, 20)
    losses = []
    for _ in range(30):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * group["scale"]
        loss = (network(image) - image[..., 2:-2, 2:-2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
