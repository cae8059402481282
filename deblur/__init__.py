"""DeblurGAN-v2 as a library of its own: generators, judges, losses, blur synthesis and a blur measure.

Needs torch, numpy and cv2.
"""

from deblur.blur import BLURRED, blur_score, blur_strength, steady_score
from deblur.fpn import PUBLISHED, Deblur, DeblurConfig

__all__ = ["BLURRED", "PUBLISHED", "Deblur", "DeblurConfig", "blur_score", "blur_strength", "steady_score"]
