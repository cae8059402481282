"""Deblurring behind one call: picture in, sharper picture out, and what was done.

deblurrer = Deblurrer(network, torch.device("cpu"), torch.float32)
settings = Settings("auto")
done = deblurrer.sharpen(picture, settings.strength_for(blur_score(picture)), cautious=settings.cautious)
if done.touched:
    show(done.picture)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.folded import FoldedDeblur
from deblur.fpn import MINIMUM, Deblur
from deblur.motion import MotionBlur
from deblur.paths import LUMA, Motion
from deblur.shake import Undone, gamma_costs, undo_shake
from deblur.tiles import Runner, blend_tiles, picture_of

__all__ = ["Deblurrer", "Moving", "Sharpened"]

Picture = NDArray[np.float32]

BLACK = 4 / 255  # in a bar, as compression leaves it


@dataclass(frozen=True, eq=False)
class Sharpened:
    """picture: [H,W,3] float32, of its own size; one that was left alone is the very object that was given. touched:
    whether anything was done. share: of the change, how much was shown in the mean, 0 to `deblur.gate.MOST`. shaken:
    whether a shake was found, and undone."""

    picture: Picture
    share: float
    shaken: bool = False

    @property
    def touched(self) -> bool:
        return self.share > 0


class Moving(NamedTuple):
    """How a frame of a video moves, for which share of the time between frames its shutter was open, and how much of
    what undoes that is to be shown, 0 to 1."""

    motion: Motion
    share: float
    amount: float = 1.0


class Deblurrer(Runner):
    """A generator (`Deblur`, or any network [1,3,H,W] → the same, 0..1) with what goes before and after it.

    Weights that want it (`DeblurConfig.undo_shake`) get the picture with its camera shake undone (deblur.shake), which
    takes a second for each and more for large ones; `quick` leaves that out. `motion` undoes the blur of what moves by
    itself, in the frames of a video in which there is no shake. `tile`: px, 0 for whole pictures; it halves where
    memory runs out. Threads may share one. TileError for a tile that is too small.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        tile: int = 0,
        *,
        quick: bool = False,
        motion: MotionBlur | None = None,
    ) -> None:
        self.undoes_shake = isinstance(network, Deblur) and network.config.undo_shake and not quick
        self.motion = motion.to(device) if motion is not None and self.undoes_shake else None
        if isinstance(network, Deblur) and network.config.norm == "running":
            network = FoldedDeblur(network)
        else:
            dtype = torch.float32  # statistics of a whole picture need it
        super().__init__(network, device, dtype, tile)

    def gamma_costs(self, picture: Picture) -> Picture | None:
        """`deblur.shake.gamma_costs` of what a picture shows inside of black bars; None where no shake is undone."""
        shown = picture[_inside_bars(picture)]
        return gamma_costs(self.tensor(shown)[0]) if self.undoes_shake and shown.size else None

    @torch.inference_mode()
    def sharpen(
        self,
        picture: Picture,
        strength: float = 1.0,
        *,
        cautious: bool = False,
        gamma: float | None = None,
        moving: Moving | None = None,
    ) -> Sharpened:
        """A picture [H,W,3], RGB, float32, about 0..1, made sharper.

        strength: 0 leaves the picture alone, 1 is the network's result, or where a shake was undone that share of it
        which is best; between them the mixture. cautious: weights that want the shake undone leave a picture alone in
        which none is found; they did more harm than good there. gamma: as for `deblur.shake.undo_shake`. moving: where
        no shake is found, or looked for, the blur of what moves is undone instead (`unblurred`), if there is any.

        What the network changes is added to the picture as it came: values outside 0..1 stay, and a precision of the
        network that is lower than the picture's concerns the change alone. The mean of each channel stays the same, by
        a factor on all (black stays black): a sharpened frame among untouched ones has their colour. Black bars, as of
        a letterbox, are left out of it all: they are not blurred, and their sharp edges would ring. A picture of less
        than 16 px a side, or black, is left alone. OutOfMemory where not even small tiles fit.
        """
        inside = _inside_bars(picture)
        if min(side.stop - side.start for side in inside) < MINIMUM:
            return Sharpened(picture, 0.0)
        if not strength:
            return Sharpened(picture, 0.0) if moving is None else self.unblurred(picture, moving)
        shown = self.tensor(picture[inside]).float()
        as_it_is = Undone(shown[0], shown.new_ones(shown.shape[2:]))
        undone = undo_shake(shown[0], gamma) if self.undoes_shake else as_it_is
        if undone is None and moving is not None:
            found = self.unblurred(picture, moving)
            if found.touched:
                return found
        if undone is None and cautious:
            return Sharpened(picture, 0.0)
        start, share = undone or as_it_is
        sharpened = picture.copy()
        sharpened[inside] = self._changed(shown, start[None], strength * share)
        return Sharpened(sharpened, strength * float(share.mean()), shaken=self.undoes_shake and undone is not None)

    def unblurred(self, picture: Picture, moving: Moving) -> Sharpened:
        """A frame of a video without the blur of what moved while its shutter was open; where nothing did, and in
        black bars, it stays as it is, bit for bit. Colour differences stay: the luma alone is changed."""
        if self.motion is None or not moving.amount:
            return Sharpened(picture, 0.0)
        change = np.float32(moving.amount) * self.motion.residual(picture @ LUMA, moving.motion, moving.share)
        shown = moving.amount * float(np.mean(change != 0))
        return Sharpened(picture + change[..., None], shown) if shown else Sharpened(picture, 0.0)

    def _changed(self, shown: Tensor, start: Tensor, share: Tensor) -> Picture:
        """A picture [1,3,h,w] with so much of the network's change, [h,w]; `start` is what the network is given."""
        height, width = shown.shape[2:]

        def run() -> Picture:
            result = blend_tiles(
                height, width, self.tile, (1, 3), lambda rows, columns: self.network(start[:, :, rows, columns])
            )
            change, counterweight = share * (result - shown.clamp(0, 1)), share * result
            level, drift = (part.mean((2, 3), keepdim=True) for part in (counterweight, change))
            change -= counterweight * (drift / level.clamp(min=1e-6))
            return picture_of((shown + change)[0])

        return self.within_memory(run, height, width)


def _inside_bars(picture: Picture) -> tuple[slice, slice]:
    """Rows and columns of a picture [H,W,3] without black bars around it; both empty where all is black."""
    left, top, width, height = cv2.boundingRect((picture.max(axis=2) > BLACK).astype(np.uint8))
    return slice(top, top + height), slice(left, left + width)
