"""How much sharper: PSNR of a deblurring network on photos that are shaken on purpose.

    python tools/measure_deblur.py PHOTOS [--weights deblur-mobilenet] [--save DIR]

Protocol: every photo is blurred by six camera-shake paths, 5, 8, 11, 14, 17 and 21 px across (two straight, two
curved, two tangled), in linear light (gamma 2.2); odd ones get Gaussian noise of sigma 1 % on top; all are rounded to
8 bits. The seeds depend on the photo's place in the sorted folder only. PSNR is plain, over all RGB values of the whole
photo, borders included; means are means of dB. "Sharp" is the photo itself through the network: it should come back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from deblur.blur import convolve, path_kernel, sensor, shake_path
from fpsgan import weights

EXTENTS = (5, 8, 11, 14, 17, 21)  # px
WANDER = (0.0, 0.3, 0.8, 0.0, 0.3, 0.8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two uint8 images, in dB; inf if equal."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def run(network: torch.nn.Module, image: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """uint8 RGB [H,W,3] through the network, and back to uint8 by rounding."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype) / 255
    y = network(x.contiguous(memory_format=torch.channels_last))
    return (y[0].float() * 255).round().byte().permute(1, 2, 0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default="deblur-mobilenet", help="name of shipped weights, or a file")
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16")
    parser.add_argument("--save", type=Path, help="write input | output | sharp of every case here, as PNG")
    options = parser.parse_args()

    dtype = torch.bfloat16 if options.bf16 else torch.float32
    network = weights.load(options.weights, expect="deblur").to(dtype=dtype, memory_format=torch.channels_last)
    paths = sorted(p for p in options.photos.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    print(f"{'photo':28} {'blurred':>8} {'output':>8} {'gain':>6} {'sharp':>6}   gain by path of {EXTENTS} px")
    rows = []
    for seed, path in enumerate(paths):
        sharp = np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
        before, after = [], []
        for index, (extent, wander) in enumerate(zip(EXTENTS, WANDER, strict=True)):
            rng = np.random.default_rng([seed, index])
            kernel = path_kernel(shake_path(extent, rng, wander=wander))
            blurred = sensor(convolve(sharp, kernel), rng, noise=0.01 * (index % 2))
            output = run(network, blurred, dtype)
            before.append(psnr(blurred, sharp))
            after.append(psnr(output, sharp))
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                picture = np.concatenate([blurred, output, sharp], 1)
                cv2.imwrite(str(options.save / f"{path.stem}-{extent}px.png"), picture[..., ::-1])
        gain = np.subtract(after, before)
        same = psnr(run(network, sharp, dtype), sharp)
        rows.append([np.mean(before), np.mean(after), gain.mean(), same, *gain])
        print(
            f"{path.name[:28]:28} {rows[-1][0]:8.2f} {rows[-1][1]:8.2f} {rows[-1][2]:+6.2f} {same:6.2f}   "
            + " ".join(f"{g:+6.2f}" for g in gain),
            flush=True,
        )
    mean = np.mean(rows, 0)
    print(
        f"{'mean':28} {mean[0]:8.2f} {mean[1]:8.2f} {mean[2]:+6.2f} {mean[3]:6.2f}   "
        + " ".join(f"{g:+6.2f}" for g in mean[4:])
    )


if __name__ == "__main__":
    main()
