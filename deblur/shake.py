"""What a shaking camera did to a frame, and its undoing: the blur kernel found in the frame itself, without learning.

A hand moves the whole frame alike, so that the blur is one kernel, which a network has to be very large and long
trained to read off; least squares find it in a second. From coarse to fine, in turns: the frame is sharpened
with the kernel so far, all but its strongest edges flattened (L0 smoothing: Xu, Zheng and Jia, "Unnatural L0 Sparse
Representation for Natural Image Deblurring", CVPR 2013); then the kernel is found that takes these edges to the blurred
ones. It has no negative values and is small: an L1 penalty makes most of it exactly zero, and is what makes the
estimate trustworthy (without it 1 dB is lost where 1.2 are gained, docs/deblur.md).

Light adds up in the sensor, code values do not: only in the light that was blurred is the blur one kernel. Which curve
lies between is not known, or there is none, as where software has blurred or averaged code values. So several are
tried on the picture at half its size, and the one is taken whose kernel leaves the sparsest edges.

The networks then start from the frame so sharpened, as the interpolator does from its flow prior. Whether a kernel is
believed, and how much of the result is shown, deblur/gate.py decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fft import rfft2

from deblur.blur import noise_variance, to_code, to_linear
from deblur.gate import CLEARLY, SURE, WINDOW, KernelSigns, agreement, is_shake, shown_share

__all__ = ["Undone", "deconvolve", "find_kernel", "gamma_costs", "gamma_of", "kernel_signs", "undo_shake"]

Image = NDArray[np.float32]

SIDE = 31  # of the kernel, px
REGION = 480  # px: the piece of the frame that the kernel is read from
GAMMAS = (1.0, 1.5, 2.2)  # candidates: the blur was a mean of code values to this power
LEAST = 128  # px a side, to read anything from
ROUNDS = 4  # of sharpening and finding the kernel, at every size
LAST_ROUNDS = 2  # more of them at the full size
FITTING = 40  # steps of FISTA in each
SPARSE = 0.01  # weight of the L1 penalty, relative to the energy of the edges
RIDGE = 1e-3  # of the L2 penalty, likewise
SPECK = 0.03  # of the kernel's largest value: what is less is taken for zero
FLAT = 4e-3  # weight of the L0 penalty on the sharpened frame's gradients
# Of the splitting, from × the L0 weight on, doubled each time. Published is up to 1e5; above 100 nothing changes. To
# begin higher, at 64, is quicker and may look as good, but loses up to 2.5 dB on long and on short shakes
FIRST_WEIGHT, LAST_WEIGHT = 2.0, 100.0
FAINT = 1 / 255  # a region whose neighbouring pixels differ by less, apart from an even ramp, shows no edges to read
SMOOTH = 0.03  # weight of the gradients when the whole frame is sharpened: the less, the sharper and the noisier
WHITE = 1e-4  # weight of the picture itself there: frequencies that the kernel takes away altogether stay away
SMOOTH_TEST = 0.02  # the same where the kernel is put to the test: ringing shows more
REPEATS = 18  # px, from which on a likeness of a picture with itself counts as repetition
COMMON = 0.6  # share of the area that the second region to look in may have in common with the first


class Undone(NamedTuple):
    """A picture without its shake, [H,W,3] float32 0..1, and the best share of the change at every place, [H,W] float32
    of 0 to `deblur.gate.MOST`: less where the edges do not agree with the kernel, as on what moves by itself."""

    picture: Image
    share: Image


def undo_shake(picture: NDArray[Any], gamma: float | None = None) -> Undone | None:
    """The picture without its camera shake, or None where there is none to be found, or none that can be trusted.

    Args:
        picture: [H,W,3] RGB, uint8 or float 0..1 (what is beyond is clipped). Of less than 128 px a side: None.
        gamma: in which the blur was a mean, one of GAMMAS, where it is known, as from other frames: to find it takes
            nearly half of the time.

    Nothing is shifted: the kernel's centre of gravity is at zero.
    """
    others: Sequence[float] = ()
    if gamma is None:
        costs = gamma_costs(picture)
        if costs is None:
            return None
        gamma = gamma_of([costs])
        others = [other for other in GAMMAS if other != gamma]
    elif _plain(picture):
        return None
    best = _estimate(_region(picture, gamma), gamma)
    if best is None:
        return None
    if best.share < SURE:
        second = _estimate(_region(picture, gamma, other=True), gamma)
        if second is None:
            return None  # what only one place shows was not the camera
        rivals = [second, *(_estimate(_region(picture, other), other) for other in others)]
        clearly = [one for one in rivals if one is not None and one.share > best.share + CLEARLY]
        best = max(clearly, key=lambda one: one.share, default=best)
    if not best.share:
        return None
    sharp = deconvolve(picture, best.kernel, best.gamma)
    after, before = (_sparsity(_grey(one, best.gamma)) for one in (sharp, picture))
    return Undone(sharp, np.float32(best.share) * agreement(np.asarray(after / before, np.float32)))


def gamma_costs(picture: NDArray[Any]) -> Image | None:
    """How little each of GAMMAS explains a blurred picture, [3] float32; None for a picture that shows nothing.

    The picture is as for `undo_shake`.
    """
    if _plain(picture):
        return None
    return np.array([_gamma_cost(_region(picture, gamma)) for gamma in GAMMAS], np.float32)


def gamma_of(costs: Sequence[Image]) -> float:
    """The gamma in which a scene was blurred, by the `gamma_costs` of one or more of its frames together."""
    return GAMMAS[int(np.sum(costs, axis=0).argmin())]


def deconvolve(picture: NDArray[Any], kernel: Tensor, gamma: float = 2.2) -> Image:
    """[H,W,3], uint8 or float 0..1, without the blur of a kernel [side,side], side odd, that was a mean in this gamma.

    float32 0..1. Nothing is shifted, wherever the kernel's centre of gravity lies in it.
    """
    linear = to_linear(picture, gamma)
    planes = _deconvolved(torch.from_numpy(linear.transpose(2, 0, 1)), kernel)
    return to_code(np.ascontiguousarray(planes.numpy().transpose(1, 2, 0)), gamma)


@torch.inference_mode()
def find_kernel(grey: Image, side: int = SIDE) -> Tensor | None:
    """The blur kernel of a grey picture [H,W], 0..1: [side,side], sum 1, no negative values; None if nothing is in it.

    `side` is odd, and the largest blur that can be found. Time grows with the picture's area.
    """
    sides = [side]
    while sides[-1] > 5:
        smaller = int(sides[-1] * math.sqrt(0.5)) | 1
        sides.append(min(smaller, sides[-1] - 2))
    kernel = torch.zeros(3, 3)
    kernel[1, :2] = 0.5
    for size in reversed(sides):
        scale = size / side
        small = grey if size == side else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rows, columns = (_fft_length(length, -1) for length in small.shape)
        blurred = _tapered(torch.from_numpy(np.ascontiguousarray(small[:rows, :columns], np.float32)), size // 2 + 1)
        spectrum = rfft2(blurred)
        along = _differences(blurred.shape)
        edges = spectrum * along[0], spectrum * along[1]
        kernel = _resized(kernel, size)
        flat, weakest = FLAT, None
        for _ in range(ROUNDS + (LAST_ROUNDS if size == side else 0)):
            sharp = _flatten(spectrum, along, kernel, flat, blurred.shape)
            step_x, step_y = torch.roll(sharp, -1, 1) - sharp, torch.roll(sharp, -1, 0) - sharp
            length = step_x.square() + step_y.square()
            weakest = _threshold(step_x, step_y, length, size) if weakest is None else weakest / 1.1
            step_x, step_y = (step.masked_fill(length < weakest, 0.0) for step in (step_x, step_y))
            found = _fit_kernel(edges, (step_x, step_y), kernel)
            if found is None:
                return None
            kernel, flat = found, flat / 1.1
    return kernel


def _fit_kernel(edges: tuple[Tensor, Tensor], steps: tuple[Tensor, Tensor], start: Tensor) -> Tensor | None:
    """The kernel k ≥ 0 that minimises ½|k * steps − edges|² + SPARSE·|k|₁ + ½RIDGE·|k|² (energy of the steps = 1), by
    FISTA (Beck and Teboulle 2009) on the normal equations, which are as small as the kernel. edges: spectra, steps:
    pictures. None where there are no steps."""
    shape, side = steps[0].shape, start.shape[0]
    x, y = (rfft2(step) for step in steps)
    wanted = _picture(x.conj() * edges[0] + y.conj() * edges[1], shape)
    likeness = _picture(x.abs().square() + y.abs().square(), shape)
    energy = float(likeness[0, 0])
    if energy <= 0:
        return None
    middle = side // 2
    wanted = torch.roll(wanted, (middle, middle), (0, 1))[:side, :side] / energy
    size = 2 ** math.ceil(math.log2(2 * side - 1))
    padded = torch.zeros(size, size)
    reach = np.s_[: 2 * side - 1, : 2 * side - 1]
    padded[reach] = torch.roll(likeness, (side - 1, side - 1), (0, 1))[reach]
    matrix = rfft2(torch.roll(padded, (1 - side, 1 - side), (0, 1))) / energy
    steepest = float(matrix.abs().max()) + RIDGE

    def gradient(kernel: Tensor) -> Tensor:
        embedded = torch.zeros(size, size)
        embedded[:side, :side] = kernel
        return _picture(matrix * rfft2(embedded), (size, size))[:side, :side] + RIDGE * kernel - wanted + SPARSE

    kernel = ahead = start
    momentum = 1.0
    for _ in range(FITTING):
        moved = (ahead - gradient(ahead) / steepest).clamp(min=0)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - kernel)
        kernel, momentum = moved, following
    kernel = kernel * (kernel >= SPECK * kernel.max())
    total = float(kernel.sum())
    return kernel / total if total > 0 else None


def _flatten(spectrum: Tensor, along: tuple[Tensor, Tensor], kernel: Tensor, flat: float, shape: torch.Size) -> Tensor:
    """The picture that blurs to `spectrum`, piecewise flat: few gradients, by half-quadratic splitting (Xu et al. 2013,
    section 3). along: `_differences` of its shape."""
    transfer = _transfer(kernel, shape)
    roughness = along[0].abs().square() + along[1].abs().square()
    explained, power = transfer.conj() * spectrum, transfer.abs().square()
    weight = FIRST_WEIGHT * flat
    sharp = _picture(spectrum, shape)
    while weight < LAST_WEIGHT:
        x, y = torch.roll(sharp, -1, 1).sub_(sharp), torch.roll(sharp, -1, 0).sub_(sharp)
        kept = x.square().addcmul_(y, y) >= flat / weight
        x.mul_(kept)
        y.mul_(kept)
        gathered = torch.roll(x, 1, 1).sub_(x).add_(torch.roll(y, 1, 0)).sub_(y)  # the differences' adjoint
        inverse = torch.add(power, roughness, alpha=weight).reciprocal_()
        sharp = _picture(rfft2(gathered).mul_(weight).add_(explained).mul_(inverse), shape)
        weight *= 2
    return sharp


def _threshold(x: Tensor, y: Tensor, length: Tensor, side: int) -> float:
    """The squared length from which a gradient counts: enough remain in each of four directions to fix the kernel."""
    sector = (torch.atan2(y, x) % math.pi / (math.pi / 4)).clamp(max=3).int()
    least = []
    for which in range(4):
        lengths = length[sector == which]
        many = min(int(0.5 * side * math.sqrt(length.numel())), lengths.numel() - 1)
        if many > 0:
            least.append(float(lengths.kthvalue(lengths.numel() - many)[0]))
    return min(least, default=0.0)


def _deconvolved(planes: Tensor, kernel: Tensor, smooth: float = SMOOTH) -> Tensor:
    """[C,H,W] deconvolved: least squares with a penalty on gradients. The border is mirrored outwards."""
    margin = SIDE
    height, width = planes.shape[1:]
    bottom, right = (_fft_length(length + 2 * margin, 1) - length - margin for length in (height, width))
    wide = _tapered(torch.nn.functional.pad(planes, (margin, right, margin, bottom), mode="reflect"), margin // 2)
    shape = wide.shape[1:]
    # centre of gravity at zero, to a fraction of a pixel: what is sharpened must not move
    (down, along), _ = _extent(kernel)
    turn = torch.fft.fftfreq(shape[0])[:, None] * down + torch.fft.rfftfreq(shape[1]) * along
    transfer = _transfer(kernel, shape) * torch.exp(2j * math.pi * turn)
    along_x, along_y = _differences(shape)
    roughness = along_x.abs().square() + along_y.abs().square()
    inverse = transfer.conj() / (transfer.abs().square() + smooth * roughness + WHITE)
    return _picture(rfft2(wide).mul_(inverse), shape)[:, margin : margin + height, margin : margin + width]


def _picture(spectrum: Tensor, shape: Sequence[int]) -> Tensor:
    picture: Tensor = torch.fft.irfft2(spectrum, s=tuple(shape))
    return picture


def _transfer(kernel: Tensor, shape: torch.Size) -> Tensor:
    """The kernel's spectrum, its middle at zero."""
    side = kernel.shape[0]
    wide = torch.zeros(shape)
    wide[:side, :side] = kernel
    spectrum: Tensor = rfft2(torch.roll(wide, (-(side // 2), -(side // 2)), (0, 1)))
    return spectrum


def _fft_length(length: int, step: int) -> int:
    """The nearest length from here, up (1) or down (-1), whose Fourier transform is quick: even, of small factors."""
    while length % 2 or cv2.getOptimalDFTSize(length) != length:
        length += step
    return length


def _differences(shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Spectra of the forward differences along x and along y."""
    x = torch.exp(2j * math.pi * torch.fft.rfftfreq(shape[1])) - 1
    y = torch.exp(2j * math.pi * torch.fft.fftfreq(shape[0])[:, None]) - 1
    return x, y


def _tapered(planes: Tensor, margin: int) -> Tensor:
    """[…,H,W] with the borders faded into a blur of both ends, so that a Fourier transform sees no edge there."""
    size = 2 * margin + 1
    shape = planes.shape[-2:]
    blur = _transfer(torch.full((size, size), 1.0 / size**2), shape)
    blurred = _picture(rfft2(planes).mul_(blur.square()), shape)
    ramps = []
    for side in shape:
        place = torch.arange(side, dtype=torch.float32)
        ramps.append((torch.minimum(place, side - 1 - place) / (1.5 * margin)).clamp(0, 1))
    weight = ramps[0][:, None] * ramps[1]
    return torch.lerp(blurred, planes, weight.square() * (3 - 2 * weight))


def _resized(kernel: Tensor, side: int) -> Tensor:
    """The kernel at another size, its centre of gravity moved to the middle by whole pixels."""
    image = np.maximum(cv2.resize(kernel.numpy(), (side, side), interpolation=cv2.INTER_CUBIC), 0)
    image /= image.sum()
    place = np.arange(side) - side // 2
    move = [-round(float((image.sum(axis) * place).sum())) for axis in (1, 0)]
    return torch.from_numpy(np.roll(image, move, (0, 1)))


def _extent(kernel: Tensor) -> tuple[tuple[float, float], float]:
    """Centre of gravity (y, x), from the middle, and standard deviation along the longer axis, in px."""
    place = torch.arange(kernel.shape[0]) - kernel.shape[0] // 2
    places = torch.stack(torch.meshgrid(place, place, indexing="ij")).flatten(1).float()
    weights = kernel.flatten()
    centre = places @ weights
    apart = places - centre[:, None]
    _, along = torch.linalg.eigvalsh((apart * weights) @ apart.T).clamp(min=0).sqrt().tolist()
    return (float(centre[0]), float(centre[1])), along


def _plain(picture: NDArray[Any]) -> bool:
    """Too small, or without edges."""
    if min(picture.shape[:2]) < LEAST:
        return True
    codes = _region(picture, 1.0)
    return max(float(np.diff(codes, axis=axis).std()) for axis in (0, 1)) < FAINT


def _region(picture: NDArray[Any], gamma: float, *, other: bool = False) -> Image:
    """The piece that the kernel is read from, grey, linear by this gamma: REGION×REGION, or as much as there is, with
    the most edges. `other`: of those that share no more than COMMON of its area, or as little as they can."""
    grey = _grey(picture, gamma)
    size = min(REGION, *grey.shape)
    edges = np.abs(cv2.Sobel(grey, -1, 1, 0)) + np.abs(cv2.Sobel(grey, -1, 0, 1))
    sums = cv2.integral(edges)
    total = sums[size:, size:] - sums[size:, :-size] - sums[:-size, size:] + sums[:-size, :-size]
    y, x = np.unravel_index(int(total.argmax()), total.shape)
    if other:
        down, right = (
            np.maximum(0, 1 - np.abs(np.arange(places) - place) / size)
            for places, place in zip(total.shape, (y, x), strict=True)
        )
        common = down[:, None] * right
        y, x = np.unravel_index(int(np.where(common <= max(COMMON, common.min()), total, -1).argmax()), total.shape)
    return np.ascontiguousarray(grey[y : y + size, x : x + size])


def _grey(picture: NDArray[Any], gamma: float) -> Image:
    """[H,W] of a picture [H,W,3], linear by this gamma."""
    return np.asarray(cv2.cvtColor(to_linear(picture, gamma), cv2.COLOR_RGB2GRAY), np.float32)


def _gamma_cost(region: Image) -> float:
    """The less, the more likely is it that the blur was a mean in this region's gamma, judged at half its size.

    There the kernel leaves edges sparse, and is no point: a picture can always be explained as one that is not blurred.
    """
    half = np.asarray(cv2.resize(region, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32)
    kernel = find_kernel(half, SIDE // 2 | 1)
    return math.inf if kernel is None else _ringing(half, _tried(half, kernel)) * math.sqrt(float(kernel.max()))


def _ringing(region: Image, sharp: Image) -> float:
    """How much less sparse the edges of a region are when sharpened: above 1 they ring."""
    return _spread(sharp) / _spread(region)


def _tried(region: Image, kernel: Tensor) -> Image:
    """A region without this blur, with as little smoothing as shows what is wrong with it."""
    return _deconvolved(torch.from_numpy(region)[None], kernel, SMOOTH_TEST)[0].numpy()


class _Estimate(NamedTuple):
    """A kernel found in this gamma, and the best share of what sharpening by it changes."""

    share: float
    gamma: float
    kernel: Tensor


def _estimate(region: Image, gamma: float) -> _Estimate | None:
    """None where no shake is found."""
    kernel = find_kernel(region)
    if kernel is None or not is_shake(float(kernel.max()), _extent(kernel)[1]):
        return None
    return _Estimate(shown_share(kernel_signs(region, kernel, gamma)), gamma, kernel)


def kernel_signs(region: Image, kernel: Tensor, gamma: float) -> KernelSigns:
    """What tells whether a kernel [side,side] is good. region: [H,W], grey 0..1 in this gamma; it was found in that."""
    length = _extent(kernel)[1]
    sharp = _tried(region, kernel)
    before, after = to_code(region, gamma), to_code(sharp, gamma)
    window = np.ones((2 * int(2 * length) + 3,) * 2, np.uint8)
    beyond = np.maximum(after - cv2.dilate(before, window), 0) + np.maximum(cv2.erode(before, window) - after, 0)
    change = max(float(np.abs(after - before).mean()), 1e-6)
    return KernelSigns(
        length=length,
        pixels=int(kernel.count_nonzero()),
        squares=float(kernel.square().sum()),
        ringing=_ringing(region, sharp),
        overshoot=float(beyond.mean()) / change,
        noise=math.sqrt(noise_variance(before * np.float32(255))) / 255 / change,
        repetition=_repetition(before),
    )


def _repetition(grey: Image) -> float:
    """How alike a picture [H,W] is to itself REPEATS px or more away, at most 4 REPEATS: 1 for tiles and fences.

    By the autocorrelation of its differences, under a window whose own fall is divided out.
    """
    steps = np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1]
    shape = steps[0].shape
    window = np.outer(np.hanning(shape[0]), np.hanning(shape[1])).astype(np.float32)
    spectra = [rfft2(torch.from_numpy(plane * window)).abs().square() for plane in steps]
    own = _picture(rfft2(torch.from_numpy(window)).abs().square(), shape)
    likeness = _picture(spectra[0] + spectra[1], shape)
    most = min(4 * REPEATS, *(side // 4 for side in shape))
    near = np.s_[: 2 * most + 1, : 2 * most + 1]
    own, likeness = (
        torch.roll(plane, (most, most), (0, 1))[near] / plane[0, 0].clamp(min=1e-12) for plane in (own, likeness)
    )
    place = torch.arange(-most, most + 1)
    far = torch.hypot(place[:, None].float(), place.float()) >= REPEATS
    return float((likeness / own)[far].max()) if far.any() else 0.0


def _sparsity(grey: Image) -> NDArray[Any]:
    """Mean over root mean square of the differences of neighbours in a window round every pixel, [H,W]: the less, the
    sparser the edges there."""
    wide = cv2.copyMakeBorder(grey, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    across, down = np.diff(wide, axis=1)[:-1], np.diff(wide, axis=0)[:, :-1]
    sums = cv2.blur(np.abs(across) + np.abs(down), (WINDOW, WINDOW))
    squares = cv2.blur(across * across + down * down, (WINDOW, WINDOW))
    return np.asarray(np.maximum(sums, 1e-6) / np.sqrt(np.maximum(squares, 1e-9)))


def _spread(plane: Image) -> float:
    """Mean over root mean square of the differences of neighbours, away from the border: the less, the sparser."""
    inner = plane[20:-20, 20:-20]
    steps = np.concatenate((np.diff(inner, axis=0).ravel(), np.diff(inner, axis=1).ravel()))
    return float(np.abs(steps).mean()) / max(float(np.sqrt(np.square(steps).mean())), 1e-9)
