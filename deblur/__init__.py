"""DeblurGAN-v2 as a library of its own: the generator, blur synthesis and a blur measure. Needs torch, numpy, cv2."""

from deblur.blur import BLURRED, blur_score
from deblur.fpn import Deblur, DeblurConfig

__all__ = ["BLURRED", "Deblur", "DeblurConfig", "blur_score"]
