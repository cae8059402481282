"""Each stage can be begun anew at any frame: after its run-up it goes on as if it had begun earlier."""

from __future__ import annotations

import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from fpsgan import weights
from fpsgan.demo import render_scene
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.stages import interpolation, scenes
from fpsgan.stages.interpolation import InterpolationSettings, Output, Spent, interpolated
from fpsgan.stages.scenes import SceneSettings, related
from fpsgan.stages.timeline import Relation, longest_gap, schedule
from fpsgan.video.frame import Color, Frame, PixelFormat

RATE = Fraction(24)


def clip(count: int) -> list[Frame]:
    """A moving scene, on twos for a while, with a logo that stands still, a fade, and a cut to something else."""
    frames = []
    other = cv2.resize(np.random.default_rng(1).integers(0, 256, (8, 12), np.uint8), (96, 64))
    for k in range(count):
        at = k // 2 * 2 if 20 <= k < 30 else k
        grey = cv2.cvtColor(render_scene(at / 24, 96, 64), cv2.COLOR_RGB2GRAY)
        if k >= 36:
            grey = np.roll(other, k, 1)
        if 12 <= k < 16:
            grey = np.rint(grey * (1 - 0.15 * (k - 11))).astype(np.uint8)
        grey[4:16, 6:30] = 16
        grey[7:13, 9:27:3] = 240
        planes = (grey, np.full((32, 48), 100 + k, np.uint8), np.full((32, 48), 140, np.uint8))
        frames.append(Frame(planes, PixelFormat.of("yuv420p"), Color(), k / RATE, 1 / RATE))
    return frames


@pytest.fixture(scope="module")
def runner() -> InterpolatorRunner:
    network = weights.load("interpolator-base", expect="interpolator")
    return InterpolatorRunner(network, torch.device("cpu"), torch.float32)


def outputs(runner: InterpolatorRunner, frames: list[Frame], first: int = 0, until: int | None = None) -> list[Output]:
    spans = schedule(
        related(frames, SceneSettings()), Fraction(1, 60), longest_gap=longest_gap(RATE), start=Fraction(0)
    )
    return list(interpolated(spans, runner, InterpolationSettings(Fraction(60), first=first, until=until), Spent()))


def test_relations_after_the_run_up_are_those_of_the_whole() -> None:
    frames = clip(48)
    whole = [relation for _, relation in related(frames, SceneSettings())]
    assert {*whole} == {*Relation}
    for begin in range(0, 30, 3):
        parts = [relation for _, relation in related(frames[begin:], SceneSettings())]
        assert parts[scenes.RUN_UP :] == whole[begin + scenes.RUN_UP :]


@pytest.mark.parametrize("rate", [Fraction(60), Fraction(48), Fraction(7), Fraction(25)])
def test_a_schedule_that_begins_later_has_the_same_outputs(rate: Fraction) -> None:
    frames = list(related(clip(48), SceneSettings()))

    def planned(begin: int) -> dict[int, tuple[Fraction, Fraction]]:
        spans = schedule(frames[begin:], 1 / rate, longest_gap=longest_gap(RATE), start=Fraction(0))
        return {number: (span.frame0.pts, t) for span in spans for number, t in enumerate(span.times, span.number)}

    whole = planned(0)
    assert list(whole) == list(range(len(whole)))
    for begin in range(1, 40):
        later = planned(begin)
        settled = [number for number in later if number / rate >= frames[begin][0].pts + Fraction(1, 8)]
        assert settled and [later[number] for number in settled] == [whole[number] for number in settled]


@pytest.mark.parametrize(("first", "until"), [(40, 80), (43, 61), (60, 75), (88, None), (91, 93)])
def test_a_part_of_the_outputs_is_that_part_of_the_whole(
    runner: InterpolatorRunner, first: int, until: int | None
) -> None:
    frames = clip(44)
    whole = outputs(runner, frames)
    begin = int(first / Fraction(60) * RATE) - max(interpolation.RUN_UP, scenes.RUN_UP) - 1
    part = outputs(runner, frames[begin:], first, until)
    assert [output.number for output in part] == list(range(first, until or len(whole)))
    for ours, theirs in itertools.zip_longest(part, whole[first:until]):
        assert ours.generated == theirs.generated and ours.frame.pts == theirs.frame.pts
        assert np.array_equal(ours.frame.as_rgb(), theirs.frame.as_rgb())


def test_nothing_is_made_for_the_run_up(runner: InterpolatorRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow of one pair before and one behind, and no picture."""
    asked, flows = [], []
    between, prior = runner.between, runner.prior
    monkeypatch.setattr(runner, "between", lambda *given: asked.append(len(given[2])) or between(*given))
    monkeypatch.setattr(runner, "prior", lambda *given: flows.append(1) or prior(*given))
    assert len(outputs(runner, clip(30), 25, 30)) == 5  # frames 10 and 11 and one before 12
    assert sum(asked) == 4 and len(flows) == 4
