"""The bench of blur of many kinds, small: every kind is made, the same twice, and `auto` does none of them harm."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deblur import Deblurrer, Settings
from fpsgan import weights

sys.path.append(str(Path(__file__).parent.parent / "tools"))
from deblur_harm import HEIGHT, KINDS, WIDTH, gain, made, pictures

SHARP = pictures([])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_and_is_the_same_again(kind: str) -> None:
    blurred, sharp = made(kind, 0, SHARP)
    assert blurred.shape == sharp.shape == (HEIGHT, WIDTH, 3) and blurred.dtype == sharp.dtype == np.uint8
    assert not np.array_equal(blurred, sharp)
    assert np.array_equal(made(kind, 0, SHARP)[0], blurred) and not np.array_equal(made(kind, 1, SHARP)[0], blurred)


@pytest.mark.parametrize("kind", ["repeated texture, soft", "motion by itself", "out of focus", "mean of few frames"])
def test_no_harm(kind: str) -> None:
    deblurrer = Deblurrer(weights.load("deblur-mobilenet"), torch.device("cpu"), torch.float32)
    for number in range(2):
        change, _ = gain(deblurrer, Settings("auto"), *made(kind, number, SHARP))
        assert change > -0.3
