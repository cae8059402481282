"""Fades and flashes: changes of exposure between two frames, told apart from motion and compensated for."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Exposure", "exposure_change"]

Grey = NDArray[np.uint8]

# These find a fade by 15 % under a pan of 24 px; in 46 real clips and animations, pairs 1 and 4 frames apart, they find
# only the animated gradient that is one.
LEAST_CHANGE = 6.0  # mean change of the sorted brightness of the picture, in codes
LEFT_SORTED = 0.15  # share of that change that gain and offset may leave unexplained
LEFT_IN_PLACE = 0.6  # the same for 16×9 thumbnails, in which motion counts a little too
MOST_GAIN = 8.0


class Exposure(NamedTuple):
    """A change of exposure from frame0 to frame1, the same all over the picture: frame1 = gain · frame0 + offset, apart
    from motion. For pictures 0..1; between the frames both change linearly with time."""

    gain: float
    offset: float

    @property
    def best(self) -> float:
        """0 or 1: the frame with more contrast, in whose exposure motion is estimated."""
        return 0.0 if self.gain <= 1 else 1.0

    def move(self, picture: NDArray[np.float32], time0: float, time1: float) -> NDArray[np.float32]:
        """A picture [...] 0..1 in the exposure of time0, brought to that of time1; times 0 (frame0) to 1 (frame1)."""
        gain0, gain1 = (1 + (self.gain - 1) * t for t in (time0, time1))
        offset = self.offset * (time1 - time0 * gain1 / gain0)
        return picture * np.float32(gain1 / gain0) + np.float32(offset)


def exposure_change(luma0: Grey, luma1: Grey) -> Exposure | None:
    """The change of exposure between two pictures [H,W]: a fade or a flash. None if it is negligible.

    Motion hardly changes the distribution of brightness, exposure changes all of it. So gain and offset are fitted to
    the sorted pixels; they have to explain these, and most of what changes in place.
    """
    sorted0, sorted1 = (np.sort(_shrunk(luma, (128, 128)), axis=None)[32::64] for luma in (luma0, luma1))
    change = float(np.abs(sorted1 - sorted0).mean())
    if change < LEAST_CHANGE:
        return None
    gain = float((sorted1.std() + 1e-3) / (sorted0.std() + 1e-3))
    offset = float(sorted1.mean() - gain * sorted0.mean())
    if not 1 / MOST_GAIN <= gain <= MOST_GAIN:
        return None
    places0, places1 = (_shrunk(luma, (16, 9)) for luma in (luma0, luma1))
    for before, after, left in ((sorted0, sorted1, LEFT_SORTED), (places0, places1, LEFT_IN_PLACE)):
        unexplained = np.abs(after - (gain * before + offset)).mean() / max(1.0, gain)
        if unexplained > left * np.abs(after - before).mean():
            return None
    return Exposure(gain, offset / 255)


def _shrunk(luma: Grey, size: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
