"""The deblurring stage: each frame as sharp as its blur asks for, and steady from frame to frame."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deblur import Deblurrer, Moving, Settings, blur_score
from deblur.exposure import Exposure, Vote, agreed
from deblur.gate import EXPOSURE_VOTES, GAMMA_VOTES, STEADINESS, VOTING, exposed, steady_score
from deblur.paths import QUICK, SMALLEST, drift_of, flows_between, motion_of
from deblur.shake import gamma_of
from fpsgan.stages.scenes import stillness
from fpsgan.stages.timeline import Relation
from fpsgan.threads import in_order
from fpsgan.video.frame import Frame, Picture

__all__ = ["Counters", "deblurred"]

Grey = NDArray[np.uint8]
Flow = NDArray[np.float32]

# Frames after which all votes on the exposure are new, and less than a tenth is left, where a scene stands still, of
# how the stage began
RUN_UP = VOTING * EXPOSURE_VOTES


@dataclasses.dataclass
class Counters:
    """What the stage has done so far: frames sharpened; frames left alone, as sharp or because `auto` found no shake in
    them (those that were late are in neither); seconds inside the networks, over the number of frames at once."""

    deblurred: int = 0
    sharp_skipped: int = 0
    seconds: float = 0.0


class _Plan(NamedTuple):
    """How strongly a frame is to be sharpened (0: not at all), in which gamma it was blurred, if that is known, whether
    it passes as it is for want of time; whether it says for how long the shutter was open, for which share of the time
    between frames it was, as far as motion tells, and how the frame moves, where that has blurred it."""

    frame: Frame
    relation: Relation
    strength: float
    gamma: float | None
    late: bool
    votes: bool
    exposure: float = 0.0
    moving: Moving | None = None


class _Linked(NamedTuple):
    """A frame's plan with that of the frame before, and the flows between the two where one moves into the other."""

    before: _Plan | None
    plan: _Plan
    flows: tuple[Flow, Flow] | None


class _Done(NamedTuple):
    """What became of it: the sharper picture, None where the frame stays as it is; whether a shake was found, and the
    seconds that took."""

    plan: _Plan
    picture: Picture | None
    shaken: bool
    seconds: float

    @property
    def refused(self) -> bool:
        """As soft as to be sharpened, and no shake in it."""
        return self.plan.strength > 0 and not self.shaken


def deblurred(
    frames: Iterable[tuple[Frame, Relation]],
    deblurrer: Deblurrer,
    settings: Settings,
    counters: Counters,
    *,
    late: Callable[[Frame], bool] = lambda _: False,
    workers: int = 1,
) -> Iterator[tuple[Frame, Relation]]:
    """Every frame with its relation to the one before, in order; those that are sharpened carry `Frame.rgb`.

    A frame of which `late` says so passes as it is, for want of time. So many as there are `workers` are sharpened at
    once; the stage reads some frames ahead for each of its steps: five and five times as many as there are workers.

    **State, and where it can be begun anew.** At a cut all of it begins anew, so that a run that starts at a cut gives
    the same frames, to the bit, as one that came from before it. Within a shot the run-up is the whole shot from the
    cut before:
    - the gamma is what the first GAMMA_VOTES sharpened frames of the shot say: no later frame rebuilds it;
    - the steadied score forgets an error by a tenth a frame (at once where the blur changes much); it counts only while
      it lies within 0.1 of `deblur.gate.BLURRED`, where the strength is neither 0 nor 1;
    - for how long the shutter was open is what the last EXPOSURE_VOTES of every VOTING frames from the cut on say;
    - what stands still keeps STEADINESS of the last sharpened frame: an error is below one code in 256 after 20 frames;
    - whether a frame alone shows a shake takes one frame on either side, and so does how it moves.
    """

    def sharpen(plan: _Plan) -> _Done:
        if not plan.strength and plan.moving is None:
            return _Done(plan, None, False, 0.0)
        began = time.perf_counter()
        done = deblurrer.sharpen(
            plan.frame.as_rgb(), plan.strength, cautious=settings.cautious, gamma=plan.gamma, moving=plan.moving
        )
        return _Done(plan, done.picture if done.touched else None, done.shaken, time.perf_counter() - began)

    # of the last frame, if it was sharpened: as shown, and in grey before and after sharpening
    before: tuple[Picture, Grey, Grey] | None = None
    plans = _planned(frames, deblurrer, settings, late)
    if deblurrer.motion is not None and settings.mode != "off" and settings.strength:
        plans = _with_motion(_with_exposure(plans, deblurrer.motion.exposure, workers), settings.strength, workers)
    results = in_order(plans, sharpen, workers)
    if deblurrer.undoes_shake and settings.cautious:
        results = _without_lone_shakes(results, deblurrer)
    for (frame, relation, strength, _, passed, *_), picture, _, seconds in results:
        counters.seconds += seconds / workers
        if picture is None:
            counters.sharp_skipped += not passed
            before = None
            yield frame, relation
            continue
        counters.deblurred += 1
        grey = np.clip(np.rint(255 * cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)), 0, 255).astype(np.uint8)
        if before is not None and relation is not Relation.CUT:
            # Each frame is deblurred by itself. Where nothing moves, what differs is error, and is averaged away. Two
            # looks, since a scene that stands seems to move where another shake has blurred it, or was undone badly.
            still = np.maximum(stillness(before[1], frame.luma), stillness(before[2], grey))[..., None]
            picture += STEADINESS * strength * still * (before[0] - picture)
        before = picture, frame.luma, grey
        yield dataclasses.replace(frame, rgb=picture), relation


def _planned(
    frames: Iterable[tuple[Frame, Relation]],
    deblurrer: Deblurrer,
    settings: Settings,
    late: Callable[[Frame], bool],
) -> Iterator[_Plan]:
    score: float | None = None
    number = 0  # since the cut
    votes: list[NDArray[np.float32]] = []  # of frames of this scene, on the gamma in which they were blurred
    for frame, relation in frames:
        strength, gamma = 0.0, None
        number += 1
        if relation is Relation.CUT:
            number, votes = 0, []
        passed = late(frame)
        if not passed:
            if settings.mode == "auto":
                # one scene has one look: its score is steadied, and begins anew with the next
                score = steady_score(None if relation is Relation.CUT else score, blur_score(_grey(frame)))
            strength = settings.strength_for(score or 0.0)
        if strength and len(votes) < GAMMA_VOTES:
            costs = deblurrer.gamma_costs(frame.as_rgb())
            votes += [] if costs is None else [costs]
        if strength and votes:
            gamma = gamma_of(votes)
        yield _Plan(frame, relation, strength, gamma, passed, votes=number % VOTING == 1 and not passed)


def _with_exposure(plans: Iterable[_Plan], exposure: Exposure, workers: int) -> Iterator[_Plan]:
    """Plans with the exposure, from quick flows: most footage is sharp, and should not wait for better ones."""

    def vote(link: tuple[_Linked | None, _Linked | None]) -> tuple[_Plan, Vote | None]:
        here, after = link
        assert here is not None
        if not here.plan.votes or here.flows is None or after is None or after.flows is None:
            return here.plan, None
        return here.plan, exposure.vote(here.plan.frame.luma, drift_of(here.flows, after.flows, QUICK))

    def wanted(before: _Plan, plan: _Plan) -> bool:
        return before.votes or plan.votes

    votes: deque[Vote | None] = deque(maxlen=EXPOSURE_VOTES)
    for plan, said in in_order(pairwise(chain(_linked(plans, wanted, QUICK, workers), (None,))), vote, workers):
        if plan.relation is Relation.CUT:
            votes.clear()
        if plan.votes:
            votes.append(said)
        yield plan._replace(exposure=0.0 if plan.late else agreed(votes))


def _with_motion(plans: Iterable[_Plan], strength: float, workers: int) -> Iterator[_Plan]:
    """Plans of frames that motion has blurred, and that both neighbours move into, with how they move. ``strength`` is
    that of all frames."""

    def amount(plan: _Plan) -> float:
        return strength * exposed(plan.exposure, plan.strength / strength)

    def seen(link: tuple[_Linked | None, _Linked | None]) -> _Plan:
        here, after = link
        assert here is not None
        before, plan, flows = here
        if not amount(plan) or before is None or flows is None or after is None or after.flows is None:
            return plan
        found = motion_of(before.frame.luma, plan.frame.luma, after.plan.frame.luma, flows, after.flows)
        return plan._replace(moving=Moving(found, plan.exposure, amount(plan)))

    def wanted(before: _Plan, plan: _Plan) -> bool:
        return bool(amount(before) or amount(plan))

    return in_order(pairwise(chain(_linked(plans, wanted, 2, workers), (None,))), seen, workers)


def _linked(
    plans: Iterable[_Plan], wanted: Callable[[_Plan, _Plan], bool], reduced: int, workers: int
) -> Iterator[_Linked]:
    """Each plan with that of the frame before, and the flows between the two where they are wanted and one frame moves
    into the other."""

    def link(pair: tuple[_Plan | None, _Plan | None]) -> _Linked:
        before, plan = pair
        assert plan is not None
        moves = plan.relation is Relation.MOTION and min(plan.frame.luma.shape) >= SMALLEST
        if before is None or not moves or not wanted(before, plan):
            return _Linked(before, plan, None)
        return _Linked(before, plan, flows_between(before.frame.luma, plan.frame.luma, reduced))

    return in_order(pairwise(chain((None,), plans)), link, workers)


def _without_lone_shakes(results: Iterable[_Done], deblurrer: Deblurrer) -> Iterator[_Done]:
    """A frame that alone shows a shake, between two as soft that show none, is a mistake: it is taken for one more."""

    def unshaken(done: _Done) -> _Done:
        plan, picture = done.plan, None
        if plan.moving is not None:
            found = deblurrer.unblurred(plan.frame.as_rgb(), plan.moving)
            picture = found.picture if found.touched else None
        return done._replace(picture=picture, shaken=False)

    before: _Done | None = None
    here: _Done | None = None
    for after in chain(results, (None,)):
        if here is not None:
            alone = here.shaken and before is not None and before.refused and here.plan.relation is not Relation.CUT
            alone = alone and after is not None and after.refused and after.plan.relation is not Relation.CUT
            yield unshaken(here) if alone else here
        before, here = here, after


def _grey(frame: Frame) -> NDArray[np.uint8]:
    return np.broadcast_to(frame.luma[..., None], (frame.height, frame.width, 3))
