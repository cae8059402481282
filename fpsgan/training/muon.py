"""Muon: momentum whose step is made orthogonal, for the weights of convolutions; AdamW for everything else.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (the iteration and its three
coefficients); AdamW: Loshchilov and Hutter, ICLR 2019. All directions of a weight matrix learn at one speed, also those
whose gradient is small: what tells one blur from another is such a direction, brightness is not. (torch.optim.Muon
refuses weights with more than two dimensions, those of convolutions.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MATRIX_SCALE = 30.0  # × the learning rate: an orthogonal step is that much smaller than one of Adam's


class Muon(torch.optim.Optimizer):
    """Over all parameters of `network`; `fine` names modules (the last layer) that learn at 0.3 of the rate.

    Every group has a "scale" that the learning rate is to be multiplied with before it is set.
    """

    def __init__(self, network: nn.Module, *, fine: str = "", weight_decay: float = 1e-4) -> None:
        matrices, plain, slow = [], [], []
        for name, parameter in network.named_parameters():
            if fine and name.startswith(fine):
                slow.append(parameter)
            elif parameter.ndim == 4 and parameter.shape[1] > 3:  # neither depthwise nor the first layer
                matrices.append(parameter)
            else:
                plain.append(parameter)
        groups = [
            {"params": matrices, "scale": MATRIX_SCALE, "orthogonal": True},
            {"params": plain, "scale": 1.0, "orthogonal": False},
            {"params": slow, "scale": 0.3, "orthogonal": False},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update from the gradients in place; a closure is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["mean"] = torch.zeros_like(parameter)
                    if not group["orthogonal"]:
                        state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                if group["orthogonal"]:
                    state["mean"].lerp_(parameter.grad, 0.05)
                    direction = orthogonal(parameter.grad.lerp(state["mean"], 0.95).flatten(1)).view_as(parameter)
                else:
                    state["mean"].lerp_(parameter.grad, 0.1)
                    state["square"].lerp_(parameter.grad.square(), 0.01)
                    step = float(state["step"])
                    spread = (state["square"] / (1 - 0.99**step)).sqrt()
                    direction = state["mean"] / (1 - 0.9**step) / (spread + 1e-8)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values about 1 (five Newton–Schulz steps), × √(rows/columns) if tall."""
    rows, columns = matrix.shape
    x = matrix.bfloat16() / (matrix.norm() + 1e-7)
    x = x.T if rows > columns else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    x = x.T if rows > columns else x
    step: Tensor = x.to(matrix.dtype) * max(1.0, rows / columns) ** 0.5
    return step
