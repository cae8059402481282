"""What deblurring is good for: QR codes and text that a machine can read again.

    python tools/benefits.py [PHOTOS...] [--each 12]

QR codes (OpenCV's encoder and decoder) lie on photos, or on rendered scenes; pages of words are set in Pillow's own
font and read by tesseract where that is on PATH (Debian: tesseract-ocr). Both are shaken by paths of 5 to 17 px in
linear light, with half a per cent of noise, and read three times: sharp, shaken, and after what `fpsgan deblur` does.
A QR code counts as read if its content comes out right; of text, the share of its characters counts that is right (1
minus the edit distance over the length). Faces are not measured: OpenCV 5 ships no detector.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from deblur_harm import Image, Rng, pictures
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from deblur import Deblurrer, Settings, blur_score
from deblur.blur import convolve, path_kernel, sensor, shake_path
from fpsgan import weights

EXTENTS = (5, 8, 11, 14, 17)  # px
NOISE = 0.005
# The most common English words with four letters or more: tesseract reads words, not letters
WORDS = (
    "that with have this from they will would there their what about which when make like time just know take people "
    "into year your good some could them other than then look only come over think also back after work first well "
    "even want because these give most water river mountain street garden window camera picture light shadow evening"
)

Reader = Callable[[Image], float]


def qr_code(photo: Image, rng: Rng) -> tuple[Image, Reader]:
    """A photo with a code of 5 to 7 px a module on it, and what reads it: 1 or 0."""
    content = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 16))
    code = np.asarray(cv2.QRCodeEncoder.create().encode(content))
    code = cv2.copyMakeBorder(code, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(255,))
    size = int(rng.integers(5, 8)) * code.shape[0]
    code = cv2.resize(code, (size, size), interpolation=cv2.INTER_NEAREST)
    made = photo.copy()
    y, x = (int(rng.integers(10, side - size - 10)) for side in photo.shape[:2])
    made[y : y + size, x : x + size] = np.rint(30 + code[..., None] * (190 / 255)).astype(np.uint8)

    def read(picture: Image) -> float:
        return float(cv2.QRCodeDetector().detectAndDecode(picture)[0] == content)

    return made, read


def page(photo: Image, rng: Rng) -> tuple[Image, Reader]:
    """A page of words in letters of 16 to 30 px, and what reads it: the share of its characters that is right."""
    height, width = photo.shape[:2]
    size = int(rng.integers(16, 31))
    font = ImageFont.load_default(size)
    sheet = Pillow.new("RGB", (width, height), tuple(int(v) for v in rng.integers(225, 250, 3)))
    draw = ImageDraw.Draw(sheet)
    lines = []
    for y in range(20, height - 2 * size, int(1.6 * size)):
        line = ""
        while draw.textlength(line, font) < width - 220:
            line = f"{line} {rng.choice(WORDS.split())}".strip()
        draw.text((20, y), line, (25, 25, 30), font)
        lines.append(line)
    text = " ".join(lines)

    def read(picture: Image) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.png"
            Pillow.fromarray(picture).save(path)
            words = ["tesseract", str(path), "-", "--psm", "6"]
            found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return max(0.0, 1 - edit_distance(" ".join(found.split()), text) / len(text))

    return np.array(sheet), read


def edit_distance(one: str, other: str) -> int:
    """Levenshtein's."""
    codes = np.array([ord(letter) for letter in other])
    before = np.arange(len(other) + 1)
    for number, letter in enumerate(one, 1):
        here = np.minimum(before[1:] + 1, before[:-1] + (codes != ord(letter)))
        # insertions: each place may come from any place before it, one more a step
        steps = np.arange(len(other) + 1)
        before = np.minimum.accumulate(np.concatenate([[number], here]) - steps) + steps
    return int(before[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--each", type=int, default=12, help="pictures of each kind and length")
    parser.add_argument("--weights", default="deblur-mobilenet")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    half = torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    deblurrer = Deblurrer(weights.load(given.weights, expect="deblur"), torch.device("cpu"), half)
    settings = Settings("auto")
    photos = pictures(given.photos)
    kinds: dict[str, Callable[[Image, Rng], tuple[Image, Reader]]] = {"QR codes read": qr_code}
    if shutil.which("tesseract"):
        kinds["characters read"] = page
    else:
        print("tesseract is not on PATH: text is left out")
    print("| | path, px | sharp | shaken | deblurred |\n|---|---|---|---|---|", flush=True)
    for kind, make in kinds.items():
        for extent in EXTENTS:
            shares = []
            for number in range(given.each):
                rng = np.random.default_rng([extent, number])
                sharp, read = make(photos[number % len(photos)], rng)
                kernel = path_kernel(shake_path(extent, rng, wander=rng.uniform(0, 0.8)))
                shaken = sensor(convolve(sharp, kernel), rng, noise=NOISE)
                strength = settings.strength_for(blur_score(shaken))
                done = deblurrer.sharpen(shaken / np.float32(255), strength, cautious=settings.cautious)
                result = np.clip(np.rint(255 * done.picture), 0, 255).astype(np.uint8)
                shares.append([read(sharp), read(shaken), read(result)])
            means = " | ".join(f"{100 * share:.0f} %" for share in np.mean(shares, axis=0))
            print(f"| {kind} | {extent} | {means} |", flush=True)


if __name__ == "__main__":
    main()
