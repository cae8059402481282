"""Trains the deblurring network on sharp photos that are shaken on the fly.

    python -m fpsgan.training.train_deblur PHOTOS… --out runs/deblur --minutes 60

A crop is taken from a photo, moved, turned out of focus or left alone (see `degrade`), and the network learns to
undo it: Charbonnier on the pixels, plus the absolute error of their spectrum (Cho et al., "Rethinking Coarse-to-Fine
Approach in Single Image Deblurring", ICCV 2021, equation 3), which asks for the frequencies that blur takes away.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deblur.backbones import MOBILENET_CHANNELS
from deblur.blur import Rng, convolve, defocus_kernel, path_kernel, sensor, shake, shake_path
from deblur.fpn import Deblur
from fpsgan import weights
from fpsgan.training.muon import Muon
from fpsgan.training.train import Batch, train

Photo = NDArray[np.uint8]
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
MARGIN = 16  # px around a crop, so that blur carries in what really lay outside
HELD_OUT = 16  # every so many-th photo is kept for validation


def load_photos(folders: Sequence[Path]) -> list[Photo]:
    """Every picture below `folders` as RGB uint8 [H,W,3], in a fixed order. ValueError if one is unreadable."""
    photos = []
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in PICTURES):
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path}: not a readable picture")
        photos.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8))
    return photos


def take_crop(photo: Photo, size: int, rng: Rng) -> Photo:
    """A random [size,size,3] piece: any place, shrunk by 1–2× (a shrunk photo is a sharper one), turned, mirrored."""
    scale = 1.0 if rng.random() < 0.4 else rng.uniform(1, 2)
    side = min(round(size * scale), *photo.shape[:2])
    y, x = (int(rng.integers(limit - side + 1)) for limit in photo.shape[:2])
    crop: NDArray[Any] = photo[y : y + side, x : x + side]
    if side != size:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.25:
        crop = crop[..., rng.permutation(3)]
    if rng.random() < 0.3:  # exposure; above 1 the highlights clip
        crop = cv2.convertScaleAbs(np.ascontiguousarray(crop), alpha=float(rng.uniform(0.6, 1.3)))
    return np.ascontiguousarray(crop)


def as_float(image: Photo) -> NDArray[np.float32]:
    """uint8 to float 0..1."""
    return image.astype(np.float32) / np.float32(255)


def degrade(sharp: Photo, rng: Rng, longest: float = 31) -> tuple[Photo, Photo, NDArray[np.float32]]:
    """(blurred, target, kernel) of a sharp crop [S,S,3]; the kernel is odd and square with sum 1.

    One in six comes back untouched: sharp input must stay as it is. `longest` is the largest extent of a camera's
    path in px, from 3 up.
    """
    kind = rng.random()
    noise = float(rng.uniform(0, 0.012)) if rng.random() < 0.5 else 0.0
    jpeg = int(rng.integers(75, 99)) if rng.random() < 0.25 else None
    if kind < 0.16:
        same = sensor(as_float(sharp), rng, noise=noise / 2 if jpeg is None else 0.0, jpeg=jpeg)
        return same, same, np.ones((1, 1), np.float32)
    gamma = float(rng.choice([1.0, 2.2, 2.2]))
    if kind < 0.22:
        kernel = defocus_kernel(rng.uniform(0.7, 4.0))
        blurred = convolve(sharp, kernel, gamma)
    elif kind < 0.26:
        column = cv2.getGaussianKernel(21, rng.uniform(0.5, 2.5), cv2.CV_32F)
        kernel = np.asarray(column @ column.T, np.float32)
        blurred = convolve(sharp, kernel, gamma)
    else:
        extent = 3 + (longest - 3) * rng.random() ** 1.4
        path = shake_path(extent, rng, wander=0.0 if rng.random() < 0.55 else rng.uniform(0.05, 0.9))
        kernel = path_kernel(path)
        if kind < 0.30:
            # As many radians as move the crop's corner by up to a quarter of the path's length either way
            turns = np.linspace(-1, 1, 43) * rng.uniform(0, 0.25) * extent / (sharp.shape[0] * 0.7)
            blurred = shake(sharp, path[::3], turns.astype(np.float32), gamma)
        else:
            blurred = convolve(sharp, kernel, gamma)
    return sensor(blurred, rng, noise=noise, jpeg=jpeg), sharp, kernel


def transfer(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of each frequency a kernel lets through, 0..1: |its spectrum| at 16×9 frequencies → [144]."""
    return np.abs(np.fft.rfft2(kernel, (64, 64)))[::4, ::4].astype(np.float32).ravel()


def batches(photos: Sequence[Photo], size: int, batch: int, seed: int, longest: float = 31) -> Iterator[Batch]:
    """Endless {"blurred", "sharp": [batch,3,size,size] float 0..1, "transfer": [batch,144]}.

    Photos are drawn by the length of their sides; nearly flat crops are mostly passed over.
    """
    rng = np.random.default_rng(seed)
    weight = np.array([photo.shape[0] * photo.shape[1] for photo in photos], np.float64) ** 0.5
    inner = slice(MARGIN, MARGIN + size)
    while True:
        cases: list[tuple[Photo, Photo, NDArray[np.float32]]] = []
        while len(cases) < batch:
            crop = take_crop(photos[rng.choice(len(photos), p=weight / weight.sum())], size + 2 * MARGIN, rng)
            if np.abs(np.diff(crop[..., 1].astype(np.int16), axis=1)).mean() >= 1.5 or rng.random() < 0.15:
                blurred, sharp, kernel = degrade(crop, rng, longest)
                cases.append((blurred[inner, inner], sharp[inner, inner], transfer(kernel)))
        blurs, sharps, transfers = zip(*cases, strict=True)
        yield {
            "blurred": to_tensor(blurs),
            "sharp": to_tensor(sharps),
            "transfer": torch.from_numpy(np.stack(transfers)),
        }


def to_tensor(images: Sequence[Photo]) -> Tensor:
    """uint8 [H,W,3] images → float [B,3,H,W] 0..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def quicken(network: nn.Module) -> None:
    """Run strided depthwise convolutions at full rate and drop what they skip: the same result.

    Their backward pass on a CPU costs more than the rest of the backbone together; without a stride it is cheap.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride == (2, 2):
            module.stride = (1, 1)
            module.register_forward_hook(lambda _module, _inputs, output: output[..., ::2, ::2])


class BlurReader(nn.Module):
    """The backbone of a `Deblur` with a linear readout of the blur (see `transfer`) at 1/4, 1/8, 1/16 and 1/32.

    Undoing a blur begins with knowing it. Trained on the restored picture alone, the backbone takes very long to find
    that out; asked directly, and without the pyramid's six times larger cost, it learns it within minutes.
    """

    def __init__(self, network: Deblur) -> None:
        super().__init__()
        self.network = network
        self.readouts = nn.ModuleList(nn.Conv2d(width, 144, 1) for width in MOBILENET_CHANNELS[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,3,H,W] 0..1, sides multiples of 32 → four maps [B,144,h,w]."""
        fpn, maps = self.network.fpn, []
        x = fpn.enc0(x * 2 - 1)
        for stage, readout in zip((fpn.enc1, fpn.enc2, fpn.enc3, fpn.enc4), self.readouts, strict=True):
            x = stage(x)
            maps.append(readout(x))
        return maps


def read_loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Mean absolute error of what the four readouts say of the blur."""
    truth = batch["transfer"][:, :, None, None]
    with torch.autocast(truth.device.type, torch.bfloat16):
        outputs = model(batch["blurred"])
    errors = [(output.float() - truth).abs().mean() for output in outputs]
    names = ("quarter", "eighth", "sixteenth", "thirtysecond")
    return torch.stack(errors).mean(), {name: float(e.detach()) for name, e in zip(names, errors, strict=True)}


@torch.no_grad()
def validate_reader(model: nn.Module, batch: Batch) -> dict[str, float]:
    """The error of the readout at 1/16, negative, and that of guessing the mean."""
    truth = batch["transfer"]
    _, errors = read_loss_fn(model, batch)
    return {"score": -errors["sixteenth"], "guess": float((truth - truth.mean(0)).abs().mean()), **errors}


def error_of(difference: Tensor) -> Tensor:
    """Of each image [B,3,H,W] → [B]: Charbonnier (ε = 10⁻³) plus half the mean absolute error of its spectrum."""
    spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho")).abs().mean((1, 2, 3, 4))
    return (difference.square() + 1e-6).sqrt().mean((1, 2, 3)) + 0.5 * spectrum


def loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """The error that is left, as a share of the error that was there.

    Long shakes have ten times the error of short ones and little of it can be undone; without the division they
    drown the rest. The 0.01 keeps samples that were sharp already from weighing without bound.
    """
    blurred, sharp = batch["blurred"], batch["sharp"]
    with torch.autocast(blurred.device.type, torch.bfloat16):
        output = model(blurred).float()
    loss = (error_of(output - sharp) / (error_of(blurred - sharp) + 0.01)).mean()
    shaken = psnr(blurred, sharp) < 60
    gain = psnr(output.detach(), sharp) - psnr(blurred, sharp)
    return loss, {"gain": float(gain[shaken].sum() / shaken.sum().clamp(min=1))}


def frozen_loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """`loss_fn` with all norms on their running statistics, as the network is run afterwards."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return loss_fn(model, batch)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image: [B,3,H,W] 0..1, twice → [B]. Equal images give 100."""
    return -10 * (a - b).square().mean((1, 2, 3)).clamp(min=1e-10).log10()


@torch.no_grad()
def validate(model: nn.Module, batch: Batch) -> dict[str, float]:
    """Mean gain in dB on the shaken crops of a batch, mean PSNR of its sharp ones, and the loss."""
    loss, metrics = loss_fn(model, batch)
    sharp = psnr(batch["blurred"], batch["sharp"]) >= 60
    kept = psnr(model(batch["blurred"][sharp]), batch["sharp"][sharp])
    return {**metrics, "sharp": float(kept.mean()), "loss": float(loss)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="folders of sharp photos")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--start", type=Path, help="begin from this best.pt of an earlier run")
    parser.add_argument("--size", type=int, default=96, help="side of a crop, px")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--longest", type=float, default=31, help="longest camera path, px")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lr-min", type=float, default=1e-5)
    parser.add_argument("--read", action="store_true", help="first part: the backbone learns to read the blur")
    parser.add_argument("--freeze", action="store_true", help="norms on fixed statistics (for the last part)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    photos = load_photos(options.photos)
    held_out = next(batches(photos[::HELD_OUT], 192, 32, seed=123))
    torch.manual_seed(options.seed)
    network = Deblur().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    quicken(network)
    reader = BlurReader(network)
    if options.start:
        state = torch.load(options.start, weights_only=True)["model"]
        (reader if "readouts.0.weight" in state else network).load_state_dict(state)
    stream = batches(
        [photo for index, photo in enumerate(photos) if index % HELD_OUT],
        options.size,
        options.batch,
        options.seed,
        options.longest,
    )
    best = train(
        reader if options.read else network,
        stream,
        read_loss_fn if options.read else frozen_loss_fn if options.freeze else loss_fn,
        out=options.out,
        max_minutes=options.minutes,
        lr=options.lr,
        lr_min=options.lr_min,
        warmup_steps=50,
        ema=0.998,
        optimizer=None if options.read else Muon(network, fine="final"),
        validate=functools.partial(validate_reader if options.read else validate, batch=held_out),
    )
    if not options.read:
        state = torch.load(best, weights_only=True)
        network.load_state_dict(state["model"])
        card = {"data": f"{len(photos)} photos", "metrics": str(state["metrics"]), "steps": str(state["step"])}
        weights.save(options.out / "deblur-mobilenet.safetensors", network, card)


if __name__ == "__main__":
    main()
