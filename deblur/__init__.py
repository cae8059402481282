"""Deblurring as a library of its own: one call that sharpens a picture, and the networks behind it.

`Deblurrer.sharpen` finds and undoes the shake of a camera, runs a DeblurGAN-v2 generator on the result, and shows as
much of the change as can be trusted. Beside it: published configurations and checkpoints, discriminators and losses for
training, blur synthesis, and a measure of blur. Needs torch, numpy and cv2.
"""

from deblur.blur import blur_score
from deblur.deblurrer import Deblurrer, Moving, Sharpened
from deblur.fpn import PUBLISHED, Deblur, DeblurConfig
from deblur.gate import BLURRED, Settings
from deblur.motion import MotionBlur, MotionConfig
from deblur.tiles import OutOfMemory, TileError

__all__ = [
    "BLURRED", "PUBLISHED", "Deblur", "DeblurConfig", "Deblurrer", "MotionBlur", "MotionConfig", "Moving",
    "OutOfMemory", "Settings", "Sharpened", "TileError", "blur_score",
]  # fmt: skip
