"""The frame at any time between two frames: network, optical flow, and how to run them.

`network` and `synthesis` are the definition, in plain torch, on any device; `cpu` is the same compiled for CPUs, with
the loops in `kernels`. `flow` finds the motion that they start from. `InterpolatorRunner` picks and feeds one of them.
"""

from fpsgan.interpolator.cpu_flow import flow_prior, with_acceleration
from fpsgan.interpolator.flow import EFFORTS, STRIDE
from fpsgan.interpolator.network import Interpolator, InterpolatorConfig, Synthesis
from fpsgan.interpolator.runner import InterpolatorRunner

__all__ = [
    "EFFORTS",
    "STRIDE",
    "Interpolator",
    "InterpolatorConfig",
    "InterpolatorRunner",
    "Synthesis",
    "flow_prior",
    "with_acceleration",
]
