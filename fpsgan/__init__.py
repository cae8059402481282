"""fpsGAN: a shaky, blurred or choppy video in, a sharp and smooth one out."""

__version__ = "0.1.0"
