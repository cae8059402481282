"""Several motions tried where motion changes from place to place: overlapped block motion compensation.

At the edges of what moves, flow is a guess: it is dragged along beside a limb, and torn where a ball passes. There each
place is also taken along the motion of its eight neighbours, and the mean of all, weighted by how well the two frames
agree along each, is nearer to the truth than any of them (Orchard and Sullivan, "Overlapped block motion compensation:
an estimation-theoretic approach", 1994). Elsewhere, which is most of a frame, nothing is computed: all would be alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fpsgan.warp import Fine, around

__all__ = ["overlapped"]

CELL = 2  # px of half size a side: places are chosen, and motions judged, by cells of 4×4 px of the frame
AWAY = 3  # cells to the neighbours whose motion is tried
VARIED = 16.0  # px of the frame, spread of the four components of motion between neighbours, from which they are tried
TRIED = 0.9  # share of the neighbours in the mean, if all explain the frames as well as a place's own motion
UNLIKELY = 0.05  # of full brightness: by how much worse a motion explains the frames to count e times less
WINDOW = 7  # cells over which that is averaged
MOST = 0.25  # of a frame: where motion varies in more of it, there where it varies most
MOTIONS = ((0, 0), *((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x))  # a place's own, its neighbours'


def overlapped(half0: Tensor, half1: Tensor, fine: Fine) -> Fine:
    """The same decisions with a residual that makes the frame, where motion varies, the mean along several motions.

    half0, half1: [B,3,h,w] fp32, the frames at half size, padded as `fine` is.
    """
    residual = fine.residual.clone()
    for i, (frame0, frame1, flow0, flow1, mask) in enumerate(zip(half0, half1, *fine[:3], strict=True)):
        _overlap(frame0, frame1, torch.cat((flow0, flow1)), mask, residual[i])
    return fine._replace(residual=residual)


def _overlap(frame0: Tensor, frame1: Tensor, flows: Tensor, mask: Tensor, residual: Tensor) -> None:
    """Of one frame: [3,h,w] twice, [4,h,w] and [1,h,w]; changes the residual [3,h,w] in place."""
    height, width = mask.shape[-2:]
    spread = _spread(flows[:, ::CELL, ::CELL])
    rows, columns = varied(spread)
    if not len(rows):
        return
    inner = torch.arange(CELL, device=mask.device)
    y = (CELL * rows[:, None] + inner.repeat_interleave(CELL)).flatten()
    x = (CELL * columns[:, None] + inner.repeat(CELL)).flatten()
    tried = [
        flows[:, (y + CELL * AWAY * down).clamp(0, height - 1), (x + CELL * AWAY * right).clamp(0, width - 1)]
        for down, right in MOTIONS
    ]
    motions = torch.stack(tried, 1)
    there0, there1 = _sampled(frame0, motions[:2], y, x), _sampled(frame1, motions[2:], y, x)
    errors = mask.new_zeros(len(MOTIONS), *spread.shape)
    errors[:, rows, columns] = (there0 - there1).abs().mean(0).view(len(MOTIONS), -1, CELL * CELL).mean(2)
    # means over what was looked at
    errors = around(errors[None], WINDOW)[0, :, rows, columns]
    looked = torch.zeros_like(spread)
    looked[rows, columns] = 1
    errors = errors / around(looked[None, None], WINDOW)[0, :, rows, columns]
    likely = torch.exp((errors[:1] - errors) / UNLIKELY) * (TRIED / (1 - TRIED) / (len(MOTIONS) - 1))
    likely[0] = 1
    shares = (likely / likely.sum(0)).repeat_interleave(CELL * CELL, 1)
    made = torch.lerp(there1, there0, mask[0, y, x])
    residual[:, y, x] += (shares * made).sum(1) - made[:, 0]


def varied(spread: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the cells, of all [h,w], among whose neighbours motion varies enough."""
    chosen = spread > VARIED
    most = int(MOST * chosen.numel())
    if int(chosen.sum()) > most:
        chosen.zero_().view(-1)[spread.flatten().topk(most).indices] = True
    rows, columns = chosen.nonzero(as_tuple=True)
    return rows, columns


def _spread(flows: Tensor) -> Tensor:
    """[C,h,w]: over a place and all between it and its neighbours, largest minus smallest, in sum over C: [h,w]."""
    most = F.pad(torch.cat((flows, -flows))[None], (AWAY, AWAY, AWAY, AWAY), mode="replicate")[0]
    for dim in (1, 2):
        reach = 1
        while reach < 2 * AWAY + 1:  # a maximum over twice as many in each step
            step = min(reach, 2 * AWAY + 1 - reach)
            length = most.shape[dim] - step
            most = torch.maximum(most.narrow(dim, 0, length), most.narrow(dim, step, length))
            reach += step
    return most.sum(0)


def _sampled(frame: Tensor, motion: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """frame [3,h,w] at (x, y) [M] and the motions [2,K,M] from there, in px of twice its size: [3,K,M]."""
    height, width = frame.shape[-2:]
    grid = torch.stack(((2 * x + 1 + motion[0]) / width - 1, (2 * y + 1 + motion[1]) / height - 1), -1)
    return F.grid_sample(frame[None], grid[None], padding_mode="border", align_corners=False)[0]
