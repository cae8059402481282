"""Whether a picture is sharpened, and by how much: every limit and weight of that decision.

A picture passes two gates. The first asks how soft it is (`blur_score`): `Settings.strength_for` makes a strength of
it. The second asks whether the kernel that was found in it looks like the path of a shaking hand (`is_shake`), and
which share of the change is the best bet (`shown_share`). Everything here is arithmetic on a few numbers; what they
are measured on is in deblur/blur.py and deblur/shake.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = [
    "BLURRED", "DOUBT", "EXPOSED", "EXPOSURE_VOTES", "FAINTEST", "FILMED", "GAMMA_VOTES", "MODES", "MOST", "MOVED",
    "NOISY", "STEADINESS", "SURENESS", "UNDERREAD", "VOTERS", "VOTING", "WINDOW", "KernelSigns", "Settings",
    "agreement", "blur_strength", "exposed", "is_shake", "shown_share", "steady_score",
]  # fmt: skip

MODES = ("auto", "on", "off")

# How soft a picture has to be
BLURRED = 1.4  # a `blur_score` from here up is worth deblurring: see docs/deblur.md for what it keeps and lets pass
RAMP = 0.1  # to either side of it: from no strength to all of it
FAINTEST = 0.02  # a strength below changes strong edges by a code or less: the picture is left untouched

# From frame to frame of a video
FOLLOWED = 0.1  # share of a small change of the score that is followed at once
JUMP = 0.2  # a change of the score that is followed at once altogether
STEADINESS = 0.75  # share of the last sharpened frame in the next, where both stand still
GAMMA_VOTES = 3  # frames of a scene that decide together in which gamma they were blurred

# Motion blur, undone where no shake is found or looked for
VOTING = 3  # every so many frames one tells for which share of the time the shutter was open
EXPOSURE_VOTES = 4  # of these frames, up to this one, that tell it together
VOTERS = 60  # moving places in all of them, at least
SURENESS = 12.0  # factor on the mean log-likelihood of the places: neighbours are not independent
DOUBT = 0.45  # added to it for sharp: harm counts more than what is missed
EXPOSED = (0.25, 0.35)  # such shares, from which a soft picture counts as blurred: from nothing to all of it is shown
FILMED = 0.3  # so much more is asked of a sharp one: films are meant to be open for half of the time
UNDERREAD = 1.2  # it is read too low by about this factor
MOVED = (0.6, 1.2)  # px passed meanwhile: likewise, of each place

# Which kernels are a shake
SHARP_PEAK = 0.27  # a kernel with so much of its weight in one pixel (up to 0.24 in shakes of 5 px) blurs nothing
SHORTEST = 1.3  # px, standard deviation along its longer axis, of a shake: what is shorter is the look of a soft lens

# The share of the change to show of a faultless kernel, and how much less for each sign of a bad one (`shown_share`):
# fitted on 105 training pictures of 16 kinds of blur to gain most, a loss counting seven times (docs/deblur.md)
FAULTLESS = 2.0  # chosen later, as were the last of the faults and the limits for places, on 500 pictures
FAULTS = (0.391, 5.761, 1.165, 0.150, 2.024, 0.822, 1.5)
LESS_SPARSE = 1.1  # edges that come out so much less sparse are ringing, not sharpness
REPEATED = 0.8  # what repeats itself is as well explained by many kernels: nothing is shown
# Of one place in a picture: a window in which edges come out no sparser is blurred otherwise
WINDOW = 96  # px
AGREES, DISAGREES = 0.97, 1.1  # how much less sparse they are: all of the change is shown, nothing of it
HARMFUL, HARMLESS = 0.2, 0.4  # of that share: from nothing to all of it is shown
MOST = 1.15  # above 1, since short shakes are undone too timidly
LONG = 5.0  # px, standard deviation: of longer kernels less is right
SURE = 0.95  # a share from which no other kernel is looked for
NOISY = 0.15  # a `KernelSigns.noise` from which a kernel is not fitted more closely: it would be to the noise
CLEARLY = 0.1  # by which the share of another one has to be larger


@dataclass(frozen=True)
class Settings:
    """What is asked of deblurring.

    mode: "auto" sharpens blurred pictures, each by as much as it is blurred, and leaves one alone in which weights that
    undo shakes find none; "on" sharpens all, by all of `strength`; "off" none. strength: 0 to 1, the most that is done.
    ValueError for anything else.
    """

    mode: str = "auto"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is not known; allowed: {', '.join(MODES)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie between 0 and 1, not {self.strength}")

    @property
    def cautious(self) -> bool:
        """Whether a picture in which no shake is found is left alone by weights that want the shake undone."""
        return self.mode == "auto"

    def strength_for(self, score: float) -> float:
        """How strongly to sharpen a picture of this `blur_score`: 0 (leave it untouched) or FAINTEST to 1."""
        strength = self.strength * {"auto": blur_strength(score), "on": 1.0, "off": 0.0}[self.mode]
        return strength if strength >= FAINTEST else 0.0


def blur_strength(score: float) -> float:
    """How much of the deblurred picture a `blur_score` asks for: 0 (sharp) to 1 (blurred), ½ at BLURRED.

    It rises smoothly over RAMP to either side, so that a small difference between frames makes a small one.
    """
    x = min(max((score - BLURRED + RAMP) / (2 * RAMP), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def steady_score(before: float | None, score: float) -> float:
    """The score to go by after that of the last frame of the scene, as this function gave it (None: there is none).

    Noise moves the score of a scene by some 0.02 from frame to frame (0.08 at most, in six clips): a tenth of a small
    difference is followed. A frame that really is as much as 0.2 more, or less, blurred gets its own score at once.
    """
    if before is None:
        return score
    apart = score - before
    return before + apart * min(1.0, max(FOLLOWED, (apart / JUMP) ** 2))


@dataclass(frozen=True)
class KernelSigns:
    """What tells a good kernel from a bad one, measured on it and on the region that it was found in.

    length: its standard deviation along the longer axis, px. pixels: how many are not zero. squares: the sum of squares
    of their values, which add up to 1. ringing: how much less sparse the edges are without its blur; above 1 they
    ring. overshoot: which share of the change goes beyond the darkest and lightest values near by. noise: standard
    deviation of the noise over the mean change. scattered: which share of the kernel is not in its largest piece, 0 to
    1. repetition: how alike the region is to itself some way off, 0 to 1.
    """

    length: float
    pixels: int
    squares: float
    ringing: float
    overshoot: float
    noise: float
    scattered: float
    repetition: float


def is_shake(peak: float, length: float) -> bool:
    """Whether a kernel blurs as a shake does, by its largest value and its standard deviation in px."""
    return peak <= SHARP_PEAK and length >= SHORTEST


def shown_share(signs: KernelSigns) -> float:
    """Which share to show of what sharpening by a kernel changes, 0 (leave the picture alone) to MOST.

    A hand's path is short and thin, and its pixels weigh about the same. A kernel that is a broad haze, leaves edges
    less sparse than they were, or makes things darker and lighter than all around them, is wrong; one read from little
    more than noise may be.
    """
    if signs.ringing > LESS_SPARSE or signs.repetition > REPEATED:
        return 0.0
    faults = (
        math.log(max(1, signs.length / LONG)),
        max(0, signs.ringing - 1),
        math.log(signs.pixels * signs.squares),  # haze; 0: all pixels alike
        # thickness: a straight even path has a deviation of 1/√12 of its length
        math.log(signs.pixels / (1 + math.sqrt(12) * signs.length)),
        signs.overshoot,
        signs.noise,
        signs.scattered,  # a path is one piece
    )
    share = FAULTLESS - sum(weight * fault for weight, fault in zip(FAULTS, faults, strict=True))
    return min(max(share, 0), MOST) * min(max((share - HARMFUL) / (HARMLESS - HARMFUL), 0), 1)


def agreement(ringing: Tensor) -> Tensor:
    """How much of the change is shown at a place, 1 to 0, by how much less sparse the edges around it came out."""
    return ((DISAGREES - ringing) / (DISAGREES - AGREES)).clamp(0, 1)


def exposed(share: float, softness: float) -> float:
    """How much of the change to show where the shutter seems to have been open for this share of the time: 0 to 1.

    softness: `blur_strength`, 0 (the picture is sharp, but for what moves) to 1.
    """
    from_nothing, to_all = (limit + FILMED * (1 - softness) for limit in EXPOSED)
    return min(max((share - from_nothing) / (to_all - from_nothing), 0.0), 1.0)
