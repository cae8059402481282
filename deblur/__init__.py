"""DeblurGAN-v2 as a library of its own: the generator, blur synthesis and a blur measure. Needs torch, numpy, cv2."""

from deblur.fpn import Deblur, DeblurConfig

__all__ = ["Deblur", "DeblurConfig"]
