"""Logos, subtitles and displays: what stays still on a moving picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["STILL_FOR", "OverlayFinder"]

Grey = NDArray[np.uint8]

STILL_FOR = 3  # pairs of frames for which an overlay must have been still; nothing earlier is remembered
EDGE = 40  # codes of local contrast that make the edge of an overlay: letters and logos have it, grain has not
TEXTURE = 12  # codes of local contrast from which motion can be seen
ONE_WAY = 0.1  # ratio of the structure tensor's eigenvalues below which all edges lie in one direction
REACH = 9  # px that an overlay extends from its edges, where nothing changes


class OverlayFinder:
    """Finds logos, subtitles and displays that stay still on a moving picture, from pairs of grey pictures in order.

    An overlay has strong edges, in the same places for STILL_FOR pairs in a row, while most of the texture around it,
    or in the whole picture, moves. Parts of a resting scene are no overlays: nothing moves around them. Nor are edges
    that all lie in one direction, along the motion: whether they move cannot be seen (the aperture problem).
    """

    def __init__(self) -> None:
        self._still: Grey | None = None  # for how many pairs each pixel has not changed

    def forget(self) -> None:
        """Start a new scene."""
        self._still = None

    def find(self, luma0: Grey, luma1: Grey) -> Grey | None:
        """The opacity of the next pair's overlay ([H,W] uint8): [H,W] uint8, 255 for opaque; None for no overlay."""
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
    """[H,W]: where most of the texture moves, in a window a third of the picture wide, or in all of it."""
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
    compare: Any = cv2.compare  # its type stubs miss that numbers are allowed
    found: Grey = compare(one, other, how)
    return found
