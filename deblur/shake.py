"""What a shaking camera did to a frame, and its undoing: the blur kernel found in the frame itself, without learning.

A hand moves the whole frame alike, so that the blur is one kernel, which a network has to be very large and long
trained to read off; least squares find it in a second. From coarse to fine, in turns: the frame is sharpened
with the kernel so far, all but its strongest edges flattened (L0 smoothing: Xu, Zheng and Jia, "Unnatural L0 Sparse
Representation for Natural Image Deblurring", CVPR 2013); then the kernel is found that takes these edges to the blurred
ones. It has no negative values and is small: an L1 penalty makes most of it exactly zero, and is what makes the
estimate trustworthy (without it 1 dB is lost where 1.2 are gained, docs/deblur.md). The frame that is shown has its
edges sparse but not flattened, and to that the kernel is fitted once more.

Light adds up in the sensor, code values do not: only in the light that was blurred is the blur one kernel. Which curve
lies between is not known, or there is none, as where software has blurred or averaged code values. So several are
tried on the picture at half its size, and the one is taken whose kernel leaves the sparsest edges.

The networks then start from the frame so sharpened, as the interpolator does from its flow prior. Whether a kernel is
believed, and how much of the result is shown, deblur/gate.py decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.fft import rfft2

from deblur.blur import noise_variance
from deblur.gate import CLEARLY, NOISY, SURE, WINDOW, KernelSigns, agreement, is_shake, shown_share

__all__ = ["Undone", "deconvolve", "find_kernel", "gamma_costs", "gamma_of", "kernel_signs", "undo_shake"]

SIDE = 31  # of the kernel, px
REGION = 480  # px: the piece of the frame that the kernel is read from
GAMMAS = (1.0, 1.5, 2.2)  # candidates: the blur was a mean of code values to this power
RED, GREEN, BLUE = 0.299, 0.587, 0.114  # of a picture's luma
LEAST = 128  # px a side, to read anything from
ROUNDS = 4  # of sharpening and finding the kernel, at every size
LAST_ROUNDS = 2  # more of them at the full size
REFINED = 3  # rounds by which the kernel that is shown is fitted more closely,
EDGES = 0.2  # to so large a share of the gradients, the strongest
FITTING = 20  # steps of FISTA in each
SPARSE, SPARSE_REFINED = 0.01, 0.003  # weight of the L1 penalty, relative to the energy of the edges
RIDGE = 1e-3  # of the L2 penalty, likewise
SPECK = 0.03  # of the kernel's largest value: what is less is taken for zero
FLAT = 4e-3  # weight of the L0 penalty on the sharpened frame's gradients
# Of the splitting, from × the L0 weight on, and how many times as large each is as the one before. Published are up to
# 1e5 and 2; above 100 nothing changes, and 2.4 gains as much as 2 where 4 loses 0.2 dB. To begin higher, at 64, is
# quicker and may look as good, but loses up to 2.5 dB on long and on short shakes
FIRST_WEIGHT, LAST_WEIGHT, GROWTH = 2.0, 100.0, 2.4
FAINT = 1 / 255  # a region whose neighbouring pixels differ by less, apart from an even ramp, shows no edges to read
DULL = 16 / 255  # a region whose values deviate by less shows little more than noise and rounding
SPARSE_EDGES = 1e-3  # weight of the gradients' lengths when the whole frame is sharpened: less is sharper and noisier
SPLITTING = (0.01, 0.06, 0.4)  # weights of the splitting there; more or larger ones gain no more than 0.05 dB
SMOOTH = 0.03  # weight of the gradients' squares: where that begins,
SMOOTH_COLOUR = 0.06  # and for colour, all of it
WHITE = 1e-4  # weight of the picture itself there: frequencies that the kernel takes away altogether stay away
SMOOTH_TEST = 0.02  # of squares, where the kernel is put to the test: ringing shows more
REPEATS = 18  # px, from which on a likeness of a picture with itself counts as repetition
CELL = 8  # px: as exactly is it looked where edges are, and where they ring
COMMON = 0.6  # share of the area that the second region to look in may have in common with the first


class Undone(NamedTuple):
    """A picture without its shake, [3,H,W] float32 0..1, and the best share of the change at every place, [H,W] float32
    of 0 to `deblur.gate.MOST`: less where the edges do not agree with the kernel, as on what moves by itself."""

    picture: Tensor
    share: Tensor


@torch.inference_mode()
def undo_shake(picture: Tensor, gamma: float | None = None) -> Undone | None:
    """The picture without its camera shake, or None where there is none to be found, or none that can be trusted.

    Args:
        picture: [3,H,W] RGB, float 0..1 (what is beyond is clipped), on any device, where all is done and the result
            is. Of less than 128 px a side: None.
        gamma: in which the blur was a mean, one of GAMMAS, where it is known, as from other frames: to find it takes
            nearly half of the time.

    Nothing is shifted: the kernel's centre of gravity is at zero.
    """
    picture = picture.contiguous()  # plane by plane
    place = _place(picture)
    if place is None:
        return None
    others: Sequence[float] = ()
    coarse: dict[float, Tensor] = {}  # kernels at half the size
    if gamma is None:
        costs, coarse = _gamma_costs(picture, place)
        gamma = gamma_of([costs])
        others = [other for other in GAMMAS if other != gamma]
    best = _estimate(_grey(picture[place], gamma), gamma, coarse.get(gamma))
    if best is None:
        return None
    if best.share < SURE:
        second = _estimate(_grey(picture[_busiest(picture, place)], gamma), gamma)
        if second is None:
            return None  # what only one place shows was not the camera
        if best.share == second.share == 0:
            return None  # nor is a kernel in a less likely gamma, where neither is to be trusted
        rivals = [second, *(_estimate(_grey(picture[place], other), other, coarse[other]) for other in others)]
        clearly = [one for one in rivals if one is not None and one.share > best.share + CLEARLY]
        best = max(clearly, key=lambda one: one.share, default=best)
    if not best.share:
        return None
    kernel = _refined(best.region, best.kernel) if best.noise < NOISY else best.kernel
    sharp = deconvolve(picture, kernel, best.gamma)
    grey = _grey(picture, best.gamma)
    # of another undoing: edges that were asked to be sparse are no sign
    after, before = (_sparsity(one) for one in (_tried(grey, kernel), grey))
    share = (best.share * agreement(after / before))[None, None]
    share = F.interpolate(share, scale_factor=float(CELL), mode="bilinear")[0, 0, : sharp.shape[1], : sharp.shape[2]]
    return Undone(sharp, share)


@torch.inference_mode()
def gamma_costs(picture: Tensor) -> NDArray[np.float32] | None:
    """How little each of GAMMAS explains a blurred picture, [3]; None for a picture that shows nothing.

    The picture is as for `undo_shake`.
    """
    place = _place(picture)
    return None if place is None else _gamma_costs(picture, place)[0]


def gamma_of(costs: Sequence[NDArray[np.float32]]) -> float:
    """The gamma in which a scene was blurred, by the `gamma_costs` of one or more of its frames together."""
    return GAMMAS[int(np.sum(costs, axis=0).argmin())]


@torch.inference_mode()
def deconvolve(picture: Tensor, kernel: Tensor, gamma: float = 2.2) -> Tensor:
    """[3,H,W], 0..1, without the blur of a kernel [side,side], side odd, that was a mean in this gamma: float32 0..1.

    Nothing is shifted, wherever the kernel's centre of gravity lies in it. The luma's edges are kept sparse, by total
    variation; what the colours differ from it is smooth, for a third of the time.
    """
    grey = _grey(picture, gamma)
    blur = _Blur.of(kernel, *grey.shape)
    red, blue = _deconvolved(_linear(picture[::2], gamma) - grey, blur, SMOOTH_COLOUR)
    differences = torch.stack((red, (RED * red + BLUE * blue) / -GREEN, blue))
    return _code(_sparse_deconvolved(grey, blur) + differences, gamma)


@torch.inference_mode()
def find_kernel(grey: Tensor, side: int = SIDE, start: Tensor | None = None) -> Tensor | None:
    """The blur kernel of a grey picture [H,W], 0..1: [side,side], sum 1, no negative values; None if nothing is in it.

    `side` is odd, and the largest blur that can be found. start: a smaller kernel that was found in the picture shrunk
    by as much. Time grows with the picture's area.
    """
    kernel = _find_kernels(grey[None], side, start if start is None else start[None])[0]
    return kernel if float(kernel.sum()) > 0 else None


def _find_kernels(greys: Tensor, side: int, start: Tensor | None = None) -> Tensor:
    """`find_kernel` of pictures [B,H,W] at once: [B,side,side], all zero where nothing is found."""
    sides, least = [side], 3 if start is None else start.shape[-1]
    while (smaller := min(int(sides[-1] * math.sqrt(0.5)) | 1, sides[-1] - 2)) > least:
        sides.append(smaller)
    if start is None:
        kernels = greys.new_zeros(len(greys), 3, 3)
        kernels[:, 1, :2] = 0.5
    else:
        kernels = start
    for size in reversed(sides):
        small = greys if size == side else _shrunk(greys, size / side)
        rows, columns = (_fft_length(length, -1) for length in small.shape[1:])
        blurred = _tapered(small[:, :rows, :columns], size // 2 + 1)
        spectrum = rfft2(blurred)
        along = _differences(blurred.shape[1:], blurred.device)
        edges = spectrum * along[0], spectrum * along[1]
        roughness = _power(along[0]) + _power(along[1])
        kernels = _resized(kernels, size)
        flat, weakest = FLAT, None
        for _ in range(ROUNDS + (LAST_ROUNDS if size == side else 0)):
            sharp = _flatten(blurred, spectrum, roughness, kernels, flat)
            step_x, step_y = torch.roll(sharp, -1, -1) - sharp, torch.roll(sharp, -1, -2) - sharp
            length = step_x.square().addcmul_(step_y, step_y)
            weakest = _thresholds(step_x, step_y, length, size) if weakest is None else weakest / 1.1
            faint = length < weakest[:, None, None]
            steps = step_x.masked_fill_(faint, 0.0), step_y.masked_fill_(faint, 0.0)
            kernels = _fit_kernels(edges, steps, kernels)
            flat /= 1.1
    return kernels


def _refined(grey: Tensor, kernel: Tensor) -> Tensor:
    """A kernel that was found in a picture [H,W], fitted more closely: to the picture as it will be shown, and to
    many edges instead of few. Not to be judged: wrong ones are followed as closely, and so is noise."""
    rows, columns = (_fft_length(length, -1) for length in grey.shape)
    grey, margin = grey[:rows, :columns], kernel.shape[-1] // 2 + 1
    spectrum = rfft2(_tapered(grey[None], margin))
    along = _differences(grey.shape, grey.device)
    edges = spectrum * along[0], spectrum * along[1]
    for _ in range(REFINED):
        sharp = _tapered(_sparse_deconvolved(grey, _Blur.of(kernel, *grey.shape))[None], margin)
        x, y = torch.roll(sharp, -1, -1) - sharp, torch.roll(sharp, -1, -2) - sharp
        length = x.square().addcmul_(y, y)
        faint = length < length.flatten().kthvalue(math.ceil((1 - EDGES) * length.numel()))[0]
        steps = x.masked_fill_(faint, 0.0), y.masked_fill_(faint, 0.0)
        fitted = _fit_kernels(edges, steps, kernel[None], SPARSE_REFINED)[0]
        kernel = torch.where(fitted.sum() > 0, fitted, kernel)
    return kernel


def _fit_kernels(
    edges: tuple[Tensor, Tensor], steps: tuple[Tensor, Tensor], start: Tensor, sparse: float = SPARSE
) -> Tensor:
    """The kernels k ≥ 0 that minimise ½|k * steps − edges|² + sparse·|k|₁ + ½RIDGE·|k|² (energy of the steps = 1), by
    FISTA (Beck and Teboulle 2009) on the normal equations, which are as small as the kernel. edges: spectra, steps:
    pictures. All zero where there are no steps."""
    shape, side = steps[0].shape[1:], start.shape[-1]
    x, y = (rfft2(step) for step in steps)
    wanted = _picture(x.conj() * edges[0] + y.conj() * edges[1], shape)
    likeness = _picture(_power(x) + _power(y), shape)
    energy = likeness[:, :1, :1].clamp(min=1e-12)
    middle, size = side // 2, 2 ** math.ceil(math.log2(2 * side - 1))
    wanted = _around_zero(wanted, middle) / energy - sparse
    padded = F.pad(_around_zero(likeness, side - 1) / energy, (0, size - 2 * side + 1) * 2)
    matrix = rfft2(torch.roll(padded, (1 - side, 1 - side), (1, 2)))
    step = 1 / (matrix.abs().amax((1, 2), keepdim=True) + RIDGE)
    matrix, wanted = matrix * step, wanted * step
    kernel = ahead = start
    momentum = 1.0
    for _ in range(FITTING):
        pulled = _picture(rfft2(ahead, s=(size, size)).mul_(matrix), (size, size))[:, :side, :side]
        moved = torch.addcmul(wanted + ahead - pulled, ahead, step, value=-RIDGE).clamp_(min=0)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = torch.lerp(kernel, moved, 1 + (momentum - 1) / following)
        kernel, momentum = moved, following
    kernel = kernel * (kernel >= SPECK * kernel.amax((1, 2), keepdim=True))
    return kernel / kernel.sum((1, 2), keepdim=True).clamp(min=1e-12)


def _flatten(blurred: Tensor, spectrum: Tensor, roughness: Tensor, kernels: Tensor, flat: float) -> Tensor:
    """The pictures that blur to `blurred`, piecewise flat: few gradients, by half-quadratic splitting (Xu et al. 2013,
    section 3). spectrum: of it; roughness: power of the `_differences` of its size."""
    shape = blurred.shape[1:]
    transfer = _transfer(kernels, shape)
    explained, power = transfer.conj() * spectrum, _power(transfer)
    weight = FIRST_WEIGHT * flat
    sharp = blurred
    while weight < LAST_WEIGHT:
        x, y = torch.roll(sharp, -1, -1).sub_(sharp), torch.roll(sharp, -1, -2).sub_(sharp)
        # 1 where the gradient stays, else 0: a comparison, and a product with its result, take five times as long
        kept = x.square().addcmul_(y, y).sub_(flat / weight).mul_(1e30).clamp_(0, 1)
        x.mul_(kept)
        y.mul_(kept)
        inverse = torch.add(roughness, power, alpha=1 / weight).reciprocal_()
        sharp = _picture(rfft2(_gathered(x, y)).add_(explained, alpha=1 / weight).mul_(inverse), shape)
        weight *= GROWTH
    return sharp


def _thresholds(x: Tensor, y: Tensor, length: Tensor, side: int) -> Tensor:
    """The squared length [B] from which a gradient [B,h,w] counts: enough remain in each of four directions to fix the
    kernel."""
    sectors = (torch.atan2(y, x) % math.pi / (math.pi / 4)).clamp(max=3).int()
    found = []
    for sector, lengths in zip(sectors, length, strict=True):
        least = []
        for which in range(4):
            some = lengths[sector == which]
            many = min(int(0.5 * side * math.sqrt(lengths.numel())), some.numel() - 1)
            if many > 0:
                least.append(some.kthvalue(some.numel() - many)[0])
        found.append(torch.stack(least).amin() if least else length.new_zeros(()))
    return torch.stack(found)


class _Blur(NamedTuple):
    """What a kernel does to planes of [rows,columns], as spectra; roughness: power of their `_differences`."""

    rows: int
    columns: int
    transfer: Tensor
    roughness: Tensor

    @classmethod
    def of(cls, kernel: Tensor, height: int, width: int) -> _Blur:
        """For planes [height,width] with room to be `_continued`. The kernel's centre of gravity comes to zero, to a
        fraction of a pixel: what is sharpened must not move."""
        rows, columns = (_fft_length(length + 2 * SIDE, 1) for length in (height, width))
        turns = []
        for length, by, frequencies in zip(
            (rows, columns), _moments(kernel)[0], (torch.fft.fftfreq, torch.fft.rfftfreq), strict=True
        ):
            turn = 2 * math.pi * by * frequencies(length, device=kernel.device)
            turns.append(torch.polar(torch.ones_like(turn), turn))
        transfer = _transfer(kernel[None], (rows, columns))[0].mul_(turns[0][:, None]).mul_(turns[1])
        along = _differences((rows, columns), kernel.device)
        return cls(rows, columns, transfer, _power(along[0]) + _power(along[1]))


def _deconvolved(planes: Tensor, blur: _Blur, smooth: float) -> Tensor:
    """[C,H,W] deconvolved: least squares with a penalty on gradients. The border is mirrored outwards."""
    height, width = planes.shape[1:]
    inverse = blur.transfer.conj() / (_power(blur.transfer) + smooth * blur.roughness + WHITE)
    sharp = torch.empty_like(planes)
    for plane, result in zip(planes, sharp, strict=True):  # one by one, for the sake of memory
        spectrum = rfft2(_continued(plane, blur.rows, blur.columns)).mul_(inverse)
        result.copy_(_picture(spectrum, (blur.rows, blur.columns))[:height, :width])
    return sharp


def _sparse_deconvolved(plane: Tensor, blur: _Blur) -> Tensor:
    """[H,W] deconvolved: least squares with a penalty on total variation, by half-quadratic splitting (Wang, Yang, Yin
    and Zhang, "A New Alternating Minimization Algorithm for Total Variation Image Reconstruction", SIAM 2008)."""
    height, width = plane.shape
    shape, power = (blur.rows, blur.columns), _power(blur.transfer) + WHITE
    explained = rfft2(_continued(plane, *shape)).mul_(blur.transfer.conj())
    sharp = _picture(explained / torch.add(power, blur.roughness, alpha=SMOOTH), shape)
    for weight in SPLITTING:
        x, y = torch.roll(sharp, -1, -1).sub_(sharp), torch.roll(sharp, -1, -2).sub_(sharp)
        length = x.square().addcmul_(y, y).sqrt_().clamp_(min=1e-9)
        kept = length.reciprocal_().mul_(-SPARSE_EDGES / weight).add_(1).clamp_(min=0)
        spectrum = rfft2(_gathered(x.mul_(kept), y.mul_(kept))).mul_(weight).add_(explained)
        sharp = _picture(spectrum.div_(torch.add(power, blur.roughness, alpha=weight)), shape)
    return sharp[:height, :width]


def _gathered(x: Tensor, y: Tensor) -> Tensor:
    """The adjoint of the differences along x and y; both are used up."""
    return torch.roll(x, 1, -1).sub_(x).add_(torch.roll(y, 1, -2)).sub_(y)


def _continued(plane: Tensor, rows: int, columns: int) -> Tensor:
    """[H,W] made larger at its end, so that it repeats without an edge: its mirrored borders faded into one another."""
    for dim, length in enumerate((rows, columns)):
        own = plane.shape[dim]
        more = torch.arange(length - own, device=plane.device)
        # a small plane is mirrored more than once
        there, period = torch.stack((own + more, len(more) - more)), 2 * (own - 1)
        after, before = (plane.index_select(dim, (at % period - own + 1).abs().neg() + own - 1) for at in there)
        fade = (more + 1) / (len(more) + 1)
        fade = (fade.square() * (3 - 2 * fade)).unsqueeze(1 - dim)
        plane = torch.cat((plane, torch.lerp(after, before, fade)), dim)
    return plane


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)


def _picture(spectrum: Tensor, shape: Sequence[int]) -> Tensor:
    picture: Tensor = torch.fft.irfft2(spectrum, s=tuple(shape))
    return picture


def _around_zero(planes: Tensor, reach: int) -> Tensor:
    """[B,h,w] from −reach to reach around its first pixel, periodically: [B, 2·reach+1, 2·reach+1]."""
    side = 2 * reach + 1
    return torch.roll(planes, (reach, reach), (1, 2))[:, :side, :side]


def _transfer(kernels: Tensor, shape: Sequence[int]) -> Tensor:
    """Spectra of kernels [B,side,side], their middle at zero."""
    side = kernels.shape[-1]
    wide = F.pad(kernels, (0, shape[1] - side, 0, shape[0] - side))
    spectra: Tensor = rfft2(torch.roll(wide, (-(side // 2), -(side // 2)), (1, 2)))
    return spectra


def _fft_length(length: int, step: int) -> int:
    """The nearest length from here, up (1) or down (-1), whose Fourier transform is quick: even, of small factors."""
    while length % 2 or cv2.getOptimalDFTSize(length) != length:
        length += step
    return length


def _differences(shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Spectra of the forward differences along x [1,w] and along y [h,1], of pictures [h,w]."""
    found = []
    for length, frequencies in ((shape[1], torch.fft.rfftfreq), (shape[0], torch.fft.fftfreq)):
        turn = 2 * math.pi * frequencies(length, device=device)
        found.append(torch.polar(torch.ones_like(turn), turn) - 1)
    return found[0], found[1][:, None]


def _tapered(planes: Tensor, margin: int) -> Tensor:
    """[B,H,W] with the borders faded into a blur of both ends, so that a Fourier transform sees no edge there."""
    size = 2 * margin + 1
    shape = planes.shape[-2:]
    blur = _transfer(planes.new_full((1, size, size), 1.0 / size**2), shape)
    blurred = _picture(rfft2(planes).mul_(blur.square()), shape)
    ramps = []
    for side in shape:
        place = torch.arange(side, dtype=torch.float32, device=planes.device)
        ramps.append((torch.minimum(place, side - 1 - place) / (1.5 * margin)).clamp(0, 1))
    weight = ramps[0][:, None] * ramps[1]
    return torch.lerp(blurred, planes, weight.square() * (3 - 2 * weight))


def _shrunk(planes: Tensor, scale: float) -> Tensor:
    """[B,h,w] at so many times the size, below 1: means over the areas of the larger pixels."""
    shares = []
    for length in planes.shape[1:]:
        edge = torch.arange(round(length * scale) + 1, device=planes.device) / scale
        pixel = torch.arange(length, device=planes.device)
        overlap = torch.minimum(edge[1:, None], pixel + 1) - torch.maximum(edge[:-1, None], pixel)
        share = overlap.clamp(min=0)
        shares.append(share / share.sum(1, keepdim=True))
    return shares[0] @ planes @ shares[1].T


def _resized(kernels: Tensor, side: int) -> Tensor:
    """Kernels [B,n,n] at another size, their centres of gravity moved to the middle by whole pixels."""
    images = F.interpolate(kernels[:, None], (side, side), mode="bicubic")[:, 0].clamp(min=0)
    images = images / images.sum((1, 2), keepdim=True).clamp(min=1e-12)
    place = torch.arange(side, device=kernels.device)
    for dim in (1, 2):
        centre = (images.sum(3 - dim) * (place - side // 2)).sum(1, keepdim=True).round().long()
        source = ((place + centre) % side).unsqueeze(3 - dim).expand_as(images)
        images = images.gather(dim, source)
    return images


def _moments(kernel: Tensor) -> tuple[tuple[float, float], float]:
    """Centre of gravity (y, x), from the middle, and standard deviation along the longer axis, in px."""
    image = kernel.cpu()  # small, and the numbers decide what is done next
    place = torch.arange(image.shape[0]) - image.shape[0] // 2
    places = torch.stack(torch.meshgrid(place, place, indexing="ij")).flatten(1).float()
    weights = image.flatten()
    centre = places @ weights
    apart = places - centre[:, None]
    _, along = torch.linalg.eigvalsh((apart * weights) @ apart.T).clamp(min=0).sqrt().tolist()
    return (float(centre[0]), float(centre[1])), along


Place = tuple[slice, slice, slice]  # of a picture [3,H,W]


def _place(picture: Tensor) -> Place | None:
    """Of the piece that the kernel is read from; None for a picture that is too small, or too dull to show edges
    there."""
    if min(picture.shape[1:]) < LEAST:
        return None
    place = _busiest(picture)
    codes = _grey(picture[place], 1.0)
    steps = torch.stack([codes.diff(dim=dim).std(correction=0) for dim in (0, 1)])
    return None if float(steps.amax()) < FAINT or float(codes.std(correction=0)) < DULL else place


def _busiest(picture: Tensor, taken: Place | None = None) -> Place:
    """REGION×REGION, or as much as there is, with the most edges; begins at multiples of CELL. `taken`: of those that
    share no more than COMMON of the area of that one, or as little as they can."""
    grey = _grey(picture, 1.0)
    size = min(REGION, *grey.shape)
    edges = grey[1:].sub(grey[:-1]).abs_()[:, 1:] + grey[:, 1:].sub(grey[:, :-1]).abs_()[1:]
    cells = F.avg_pool2d(edges[None], CELL)[0]
    side = size // CELL - 1  # the last cell may lack a row
    sums = F.pad(cells, (1, 0, 1, 0)).cumsum(0).cumsum(1)
    total = sums[side:, side:] - sums[side:, :-side] - sums[:-side, side:] + sums[:-side, :-side]
    total = total[: (grey.shape[0] - size) // CELL + 1, : (grey.shape[1] - size) // CELL + 1]
    if taken is not None:
        down, across = (
            (1 - (torch.arange(places, device=grey.device) * CELL - place.start).abs() / size).clamp(min=0)
            for places, place in zip(total.shape, taken[1:], strict=True)
        )
        common = down[:, None] * across
        total = total.masked_fill(common > common.amin().clamp(min=COMMON), -1)
    y, x = (CELL * int(each) for each in np.unravel_index(int(total.argmax()), total.shape))
    return np.s_[:, y : y + size, x : x + size]


def _linear(picture: Tensor, gamma: float) -> Tensor:
    """Code values 0..1, beyond which is clipped, to linear light."""
    return picture.clamp(0, 1) if gamma == 1 else picture.clamp(0, 1).pow_(gamma)


def _code(light: Tensor, gamma: float) -> Tensor:
    """Linear light to code values: the inverse of `_linear`."""
    return _linear(light, 1 / gamma)


def _grey(picture: Tensor, gamma: float) -> Tensor:
    """[H,W] of a picture [3,H,W], linear by this gamma."""
    red, green, blue = _linear(picture, gamma)
    return torch.add(RED * red, green, alpha=GREEN).add_(blue, alpha=BLUE)


def _gamma_costs(picture: Tensor, place: Place) -> tuple[NDArray[np.float32], dict[float, Tensor]]:
    """The less, the more likely is it that the blur was a mean in this gamma, judged at half the size; and the kernels.

    There the kernel leaves edges sparse, and is no point: a picture can always be explained as one that is not blurred.
    """
    halves = F.avg_pool2d(torch.stack([_grey(picture[place], gamma) for gamma in GAMMAS]), 2)
    kernels = _find_kernels(halves, SIDE // 2 | 1)
    costs = []
    for half, kernel in zip(halves, kernels, strict=True):
        cost = _ringing(half, _tried(half, kernel)) * kernel.amax().sqrt()
        costs.append(torch.where(kernel.sum() > 0, cost, math.inf))
    return np.asarray(torch.stack(costs).cpu().numpy(), np.float32), dict(zip(GAMMAS, kernels, strict=True))


def _ringing(region: Tensor, sharp: Tensor) -> Tensor:
    """How much less sparse the edges of a region are when sharpened: above 1 they ring."""
    return _spread(sharp) / _spread(region)


def _tried(region: Tensor, kernel: Tensor) -> Tensor:
    """A region without this blur, with as little smoothing as shows what is wrong with it."""
    return _deconvolved(region[None], _Blur.of(kernel, *region.shape), SMOOTH_TEST)[0]


class _Estimate(NamedTuple):
    """A kernel found in a region [H,W], grey in this gamma; the best share of what sharpening by it changes, and how
    noisy that is (`KernelSigns`)."""

    share: float
    noise: float
    gamma: float
    kernel: Tensor
    region: Tensor


def _estimate(region: Tensor, gamma: float, coarse: Tensor | None = None) -> _Estimate | None:
    """None where no shake is found. coarse: the kernel at half the size, if it is known."""
    kernel = find_kernel(region, start=coarse)
    if kernel is None or not is_shake(float(kernel.amax()), _moments(kernel)[1]):
        return None
    signs = kernel_signs(region, kernel, gamma)
    return _Estimate(shown_share(signs), signs.noise, gamma, kernel, region)


@torch.inference_mode()
def kernel_signs(region: Tensor, kernel: Tensor, gamma: float) -> KernelSigns:
    """What tells whether a kernel [side,side] is good. region: [H,W], grey 0..1 in this gamma; it was found in that."""
    length = _moments(kernel)[1]
    sharp = _tried(region, kernel)
    before, after = _code(region, gamma), _code(sharp, gamma)
    reach = int(2 * length) + 1
    lightest, darkest = _largest(before, reach), -_largest(-before, reach)
    beyond = (after - lightest).clamp_(min=0) + (darkest - after).clamp_(min=0)
    change = (after - before).abs().mean().clamp(min=1e-6)
    signs = (
        kernel.count_nonzero(), kernel.square().sum(), _ringing(region, sharp), beyond.mean() / change, change,
        _repetition(before),
    )  # fmt: skip
    pixels, squares, ringing, overshoot, changed, repetition = torch.stack([sign.float() for sign in signs]).tolist()
    noise = math.sqrt(noise_variance(before.cpu().numpy() * np.float32(255))) / 255
    return KernelSigns(
        length=length,
        pixels=int(pixels),
        squares=squares,
        ringing=ringing,
        overshoot=overshoot,
        noise=noise / changed,
        scattered=_scattered(kernel),
        repetition=repetition,
    )


def _scattered(kernel: Tensor) -> float:
    """Which share of a kernel is not in its largest piece."""
    image = kernel.cpu().numpy()
    _, pieces = cv2.connectedComponents((image > 0).astype(np.uint8), connectivity=8)
    return 1 - float(np.bincount(pieces.ravel(), image.ravel())[1:].max() / image.sum())


def _largest(plane: Tensor, reach: int) -> Tensor:
    """The largest value [H,W] up to so many pixels away, across and down."""
    side = 2 * reach + 1
    rows = F.max_pool2d(plane[None], (1, side), 1, (0, reach))
    return F.max_pool2d(rows, (side, 1), 1, (reach, 0))[0]


def _repetition(grey: Tensor) -> Tensor:
    """How alike a picture [H,W] is to itself REPEATS px or more away, at most 4 REPEATS: 1 for tiles and fences.

    By the autocorrelation of its differences, under a window whose own fall is divided out.
    """
    steps = torch.stack((grey.diff(dim=1)[:-1], grey.diff(dim=0)[:, :-1]))
    shape = steps.shape[1:]
    windows = [torch.hann_window(side, periodic=False, device=grey.device) for side in shape]
    window = windows[0][:, None] * windows[1]
    most = min(4 * REPEATS, *(side // 4 for side in shape))
    own = _around_zero(_picture(_power(rfft2(window[None])), shape), most)
    likeness = _around_zero(_picture(_power(rfft2(steps * window)).sum(0, keepdim=True), shape), most)
    own, likeness = (plane[0] / plane[0, most, most].clamp(min=1e-12) for plane in (own, likeness))
    place = torch.arange(-most, most + 1, device=grey.device).float()
    far = torch.hypot(place[:, None], place) >= REPEATS
    repetition: Tensor = (likeness / own).masked_fill(~far, 0.0).amax()
    return repetition


def _sparsity(grey: Tensor) -> Tensor:
    """Mean over root mean square of the differences of neighbours in a window round every cell of CELL×CELL px: the
    less, the sparser the edges there. [ceil(H/CELL), ceil(W/CELL)]."""
    across, down = (F.pad(grey.diff(dim=dim), pad) for dim, pad in ((1, (0, 1)), (0, (0, 0, 0, 1))))
    planes = torch.stack((across.abs() + down.abs(), across.square().addcmul_(down, down)))
    cells = F.avg_pool2d(planes, CELL, ceil_mode=True, count_include_pad=False)
    half = WINDOW // CELL // 2
    wide = F.pad(cells, (half, half - 1) * 2, mode="reflect")
    sums, squares = F.avg_pool2d(wide, WINDOW // CELL, 1)
    sparsity: Tensor = sums.clamp(min=1e-6) / squares.clamp(min=1e-9).sqrt()
    return sparsity


def _spread(plane: Tensor) -> Tensor:
    """Mean over root mean square of the differences of neighbours, away from the border: the less, the sparser."""
    inner = plane[20:-20, 20:-20]
    steps = torch.cat((inner.diff(dim=0).flatten(), inner.diff(dim=1).flatten()))
    spread: Tensor = steps.abs().mean() / steps.square().mean().sqrt().clamp(min=1e-9)
    return spread
