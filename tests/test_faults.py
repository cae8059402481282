"""The faults that eyes see first: their measures, and how far the shipped weights have them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fpsgan import weights
from fpsgan.interpolator import Interpolator
from fpsgan.training.peers import blend, by_network

sys.path.append(str(Path(__file__).parent.parent / "tools"))
import faults

RIGHT = {"PSNR": 60.0, "opacity": 1.0, "ghosts": 0.0, "bend": 0.0, "half": 0.0, "off": 0.0}

# Today's figures of two scenes each: least PSNR, some 1.5 dB below the worse of the two; most of the rest, a fifth more
LEAST = {
    "small fast things": 15.5, "entering at the border": 41.0, "fences": 26.5, "lines beside an edge": 21.7,
    "lines that grow": 24.8, "corners that turn": 18.1, "stopping, starting": 39.0,
}  # fmt: skip
MOST = {
    "interpolator-fast": {"ghosts": 0.65, "bend": 0.25, "half": 0.25, "off": 3.6},
    "interpolator-base": {"ghosts": 0.65, "bend": 0.25, "half": 0.35, "off": 1.2},
    "interpolator-best": {"ghosts": 0.65, "bend": 0.4, "half": 0.35, "off": 1.2},
}


def test_the_truth_has_no_fault_and_a_cross_fade_has_all() -> None:
    for name, drawn in faults.scenes(2).items():
        for scene in drawn:
            assert scene.region.any()
            for measure, value in faults.measured(scene, scene.frames[2]).items():
                assert value == pytest.approx(RIGHT[measure], abs=0.02), (name, measure)
        found = faults.means([faults.measured(scene, faults.rebuilt(scene, blend)) for scene in drawn])
        assert found["PSNR"] < (45 if name == "stopping, starting" else 25)  # a still pair is among those
        assert found.get("opacity", 0) < 0.2
        assert found.get("ghosts", 1) > 0.4
        assert found.get("half", 1) > 0.7
        assert found.get("bend", 1) > 0.3
        assert found.get("off", 9) > 1.5


@pytest.mark.parametrize("name", MOST)
def test_no_fault_is_worse_than_it_was(name: str) -> None:
    network = weights.load(name, expect="interpolator")
    assert isinstance(network, Interpolator)
    filler = by_network(network, torch.device("cpu"), torch.float32)
    for fault, drawn in faults.scenes(2).items():
        found = faults.means([faults.measured(scene, faults.rebuilt(scene, filler)) for scene in drawn])
        assert found.pop("PSNR") > LEAST[fault], fault
        for measure, value in found.items():
            if measure == "opacity":
                assert value > -0.2, fault
            else:
                assert value < MOST[name][measure], (fault, measure)
