"""Logos, subtitles and displays: what stands still on a picture that moves."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["STILL_FOR", "OverlayFinder"]

Grey = NDArray[np.uint8]

STILL_FOR = 3  # pairs of frames that an overlay must have stood still; of earlier ones nothing is remembered
EDGE = 40  # codes of local contrast: what begins an overlay. Letters and logos have it, grain has not
TEXTURE = 12  # codes of local contrast from which one can see whether a place moves
ONE_WAY = 0.1  # weaker against stronger direction of edges, squared: below, they all lie one way
REACH = 9  # px that an overlay extends from its edges, so far as nothing changes there


class OverlayFinder:
    """Finds logos, subtitles and displays that stand still on a picture that moves: pairs of grey pictures, in order.

    An overlay has strong edges, in the same places for STILL_FOR pairs in a row, while most of what has texture around
    it, or in the whole picture, moves. Parts of a resting scene are none: around them nothing moves. Nor are edges that
    all lie one way, along the motion: of these nobody can tell whether they move.
    """

    def __init__(self) -> None:
        self._still: Grey | None = None  # for how many pairs each pixel has not changed

    def forget(self) -> None:
        """Another scene begins."""
        self._still = None

    def find(self, luma0: Grey, luma1: Grey) -> Grey | None:
        """The overlay of the next pair ([H,W] uint8): its opacity, [H,W] uint8 of 255, or None if there is none."""
        change = cv2.absdiff(luma0, luma1)
        neighbours = np.ones((3, 3), np.uint8)
        contrast0, contrast1 = (cv2.morphologyEx(luma, cv2.MORPH_GRADIENT, neighbours) for luma in (luma0, luma1))
        least, most = cv2.min(contrast0, contrast1), cv2.max(contrast0, contrast1)
        # an edge that moves by d px changes its pixels by about d/2 of its contrast
        still = _compare(change, cv2.CMP_LE, cv2.convertScaleAbs(least, alpha=0.1, beta=3))
        moves = _compare(change, cv2.CMP_GT, cv2.convertScaleAbs(most, alpha=0.2, beta=2))
        moves &= _compare(most, cv2.CMP_GE, TEXTURE)
        rests = still & _compare(least, cv2.CMP_GE, TEXTURE)
        since = np.zeros_like(luma0) if self._still is None else self._still
        self._still = since = (since + (since < 255)) & still  # saturates
        lasting = _compare(since, cv2.CMP_GE, STILL_FOR)
        edges = lasting & _compare(least, cv2.CMP_GE, EDGE)
        edges[~_in_motion(moves, rests)] = 0
        if edges.any():
            edges[~_both_ways(edges, luma1)] = 0
        if not edges.any():
            return None
        reach = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
        mask = cv2.morphologyEx(cv2.min(cv2.dilate(edges, reach), lasting), cv2.MORPH_CLOSE, neighbours)
        return np.asarray(cv2.blur(mask, (3, 3)), np.uint8)


def _in_motion(moves: Grey, rests: Grey) -> NDArray[np.bool_]:
    """[H,W]: where most of the texture of a window a third of the picture wide, or of all of it, moves."""
    moving, resting = _shrunk_by(moves, 8), _shrunk_by(rests, 8)
    if moving.mean() > resting.mean() + 2:
        return np.ones(moves.shape, np.bool_)
    window = (max(3, min(moving.shape) // 3),) * 2
    return _enlarged(cv2.blur(moving, window) > cv2.blur(resting, window) + 2, moves)


def _both_ways(edges: Grey, luma: Grey) -> NDArray[np.bool_]:
    """[H,W]: where the edges in a window of 28 px have more than one direction (the structure tensor's eigenvalues)."""
    gradients = [np.where(edges, g, 0).astype(np.float32) for g in cv2.spatialGradient(luma)]
    (xx, yy, xy) = (
        cv2.blur(_shrunk_by(gradients[i] * gradients[k], 4), (7, 7)) for i, k in ((0, 0), (1, 1), (0, 1))
    )  # fmt: skip
    half, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    return _enlarged(half - spread > ONE_WAY * (half + spread), edges)


def _shrunk_by(picture: NDArray[Any], factor: int) -> NDArray[np.float32]:
    size = (-(-picture.shape[1] // factor), -(-picture.shape[0] // factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _enlarged(condition: NDArray[np.bool_], picture: Grey) -> NDArray[np.bool_]:
    size = (picture.shape[1], picture.shape[0])
    return cv2.resize(condition.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def _compare(one: cv2.typing.MatLike, how: int, other: cv2.typing.MatLike | int) -> Grey:
    """255 where the comparison holds, 0 elsewhere."""
    compare: Any = cv2.compare  # its types know no numbers
    found: Grey = compare(one, other, how)
    return found
