"""Photos: what a camera wrote around the picture goes along with it.

The video path would do for the pixels, but not for an ICC profile or EXIF, nor for pictures of different sizes. Pillow
reads and writes all of it; it has no colour pictures of more than 8 bits, so those stay with the video path.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deblur.blur import blur_score, blur_strength
from fpsgan import weights
from fpsgan.errors import InputError, OutputError
from fpsgan.pipeline import FAINTEST, SMALLEST_SIDE, Options
from fpsgan.runtime import DeblurRunner, at_once, pick_device, pick_dtype, sharing_cores
from fpsgan.threads import in_order
from fpsgan.video.probe import IMAGE_SUFFIXES

__all__ = ["PhotoResult", "compare", "deblur_photos", "is_photo"]

Picture = NDArray[np.uint8]

# How each kind is written: close to lossless where it has a choice, for the blur is gone and should stay so.
WRITE: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95},
    ".png": {},
    ".bmp": {},
    ".tif": {"compression": "tiff_lzw"},
    ".tiff": {"compression": "tiff_lzw"},
}


@dataclass(frozen=True)
class PhotoResult:
    """What became of a photo: its ``score`` (see deblur.blur_score), and how much of the deblurred picture was taken,
    0 (left untouched) to 1."""

    source: str
    target: str
    width: int
    height: int
    score: float
    strength: float
    seconds: float


def is_photo(path: Path) -> bool:
    """Whether ``deblur_photos`` takes this file: by its suffix a photo, not animated and not of 16 bits."""
    if path.suffix.lower() not in WRITE or not path.is_file():
        return False
    try:
        with Image.open(path) as file:
            deep = file.mode.startswith("I") or any("16" in str(tile.args) for tile in file.tile)
            return getattr(file, "n_frames", 1) == 1 and not deep
    except (UnidentifiedImageError, OSError):
        return True  # so that `deblur_photos` says what is wrong with it


def deblur_photos(sources: Sequence[Path], targets: Sequence[Path], options: Options) -> list[PhotoResult]:
    """Sharpen each source into its target; of the options, those about deblurring, the machine and overwriting count.

    Kept: orientation (turned upright), ICC profile, EXIF, transparency, grey. A photo that needs no sharpening is
    copied to the bit where the kind stays the same. Raises a FpsganError before anything is written if a target is
    there already or of an unknown kind; each target is whole or absent. On a CPU several are worked on at once; one
    that cannot be read ends it all, those before it are written.
    """
    options.check()
    for source, target in zip(sources, targets, strict=True):
        if target.suffix.lower() not in WRITE:
            raise OutputError(f"{target}: unknown kind of photo; known are {', '.join(WRITE)}")
        if source.resolve() == target.resolve():
            raise OutputError(f"{target}: is the input itself; give another name or folder")
        if target.exists() and not options.overwrite:
            raise OutputError(f"{target}: exists already; -y replaces it")
    runner = _runner(options, options.deblur_weights)
    workers = min(at_once(runner.device, max(map(_pixels, sources), default=1)), max(1, len(sources)))
    pairs = zip(sources, targets, strict=True)
    with sharing_cores(workers):
        return list(in_order(pairs, lambda pair: _deblur(*pair, runner, options), workers))


def _pixels(path: Path) -> int:
    """How many a photo has; 1 where that cannot be read, which is said when its turn comes."""
    try:
        with Image.open(path) as photo:
            return max(1, photo.width * photo.height)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return 1


def _runner(options: Options, name: str | Path) -> DeblurRunner:
    device = pick_device(options.device)
    return DeblurRunner(weights.load(name, expect="deblur"), device, pick_dtype(device, options.half), options.tile)


def _deblur(source: Path, target: Path, runner: DeblurRunner, options: Options) -> PhotoResult:
    began = time.perf_counter()
    photo = _open(source)
    picture = np.asarray(photo.convert("RGB"))
    score = blur_score(picture)
    strength = options.deblur_strength * {"on": 1.0, "off": 0.0, "auto": blur_strength(score)}[options.deblur]
    if strength < FAINTEST:
        strength = 0.0
    else:
        sharp = _sharpened(picture, runner, strength, cautious=options.deblur == "auto")
        if sharp is picture:
            strength = 0.0  # no blur was found that these weights could take away
        picture = sharp
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not strength and source.suffix.lower() == target.suffix.lower():
            shutil.copyfile(source, partial)
        else:
            _write(photo, picture, target, partial)
        partial.replace(target)
    except (OSError, ValueError) as error:  # Pillow says ValueError for what a format cannot hold
        partial.unlink(missing_ok=True)
        raise OutputError(f"{target}: cannot be written ({' '.join(str(error).split())[:200]})") from error
    return PhotoResult(
        str(source), str(target), photo.width, photo.height, score, strength, time.perf_counter() - began
    )


def _open(path: Path) -> Image.Image:
    """The photo, upright. InputError, in one line, for what is none, is damaged or is neither RGB nor grey."""
    try:
        with Image.open(path) as file:
            kind = file.format
            file.load()
            photo = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not a readable photo ({' '.join(str(error).split())[:200]})") from error
    if photo.mode in ("P", "PA"):
        photo = photo.convert("RGBA" if "transparency" in photo.info or photo.mode == "PA" else "RGB")
    elif photo.mode == "1":
        photo = photo.convert("L")
    if photo.mode not in ("RGB", "RGBA", "L", "LA"):
        raise InputError(f"{path}: its colours are {photo.mode}; save it as RGB first")
    if min(photo.size) < SMALLEST_SIDE:
        raise InputError(f"{path}: {photo.width}×{photo.height} is too small, {SMALLEST_SIDE} px a side is the least")
    photo.format = kind
    return photo


def _sharpened(picture: Picture, runner: DeblurRunner, strength: float, *, cautious: bool = False) -> Picture:
    """The picture itself where the runner finds nothing to do."""
    given = picture.astype(np.float32) / np.float32(255)
    found = runner.sharpen(given, strength, cautious=cautious)
    return picture if found is given else np.clip(np.rint(255 * found), 0, 255).astype(np.uint8)


def _write(photo: Image.Image, picture: Picture, target: Path, partial: Path) -> None:
    kind = Image.registered_extensions()[target.suffix.lower()]
    sharp = Image.fromarray(picture)
    if photo.mode in ("L", "LA"):
        sharp = Image.fromarray(np.rint(picture.mean(2)).astype(np.uint8))
    if photo.mode in ("LA", "RGBA"):
        if kind == "JPEG":
            raise ValueError("JPEG has no transparency; choose .png, .webp or .tiff")
        sharp.putalpha(photo.getchannel("A"))
    about: dict[str, Any] = {"icc_profile": photo.info["icc_profile"]} if photo.info.get("icc_profile") else {}
    exif = photo.getexif()
    if exif and photo.format != "TIFF":  # a TIFF's own tags describe how its pixels lie in the file
        about["exif"] = exif.tobytes()
    sharp.save(partial, format=kind, **WRITE[target.suffix.lower()], **about)


def compare(
    sources: Sequence[Path], folder: Path, names: Sequence[str], options: Options, truth: Path | None = None
) -> list[dict[str, Any]]:
    """Sheets ``<photo>.png`` in ``folder``: the photo, what each of the weights makes of it, the truth, side by side.

    ``truth`` is a folder with a sharp picture of the same name (any suffix) and size for each photo. Returns a record
    for each photo and each column but the truth: "picture", "weights" ("input" for the photo itself) and, with a truth,
    plain RGB "psnr" in dB and "ssim". Raises InputError where a truth is missing or of another size.
    """
    from fpsgan.training.metrics import psnr, ssim

    runners = {name: _runner(options, name) for name in names}
    records = []
    for source in sources:
        picture = np.asarray(_open(source).convert("RGB"))
        strength = options.deblur_strength * (blur_strength(blur_score(picture)) if options.deblur == "auto" else 1.0)
        columns = {"input": picture}
        columns |= {name: _sharpened(picture, runner, strength) for name, runner in runners.items()}
        sharp = None
        if truth is not None:
            found = [path for path in sorted(truth.glob(f"{source.stem}.*")) if path.suffix.lower() in IMAGE_SUFFIXES]
            if not found:
                raise InputError(f"{truth}: holds no picture called {source.stem}")
            sharp = np.asarray(_open(found[0]).convert("RGB"))
            if sharp.shape != picture.shape:
                raise InputError(f"{found[0]}: must have the size of {source}, {picture.shape[1]}×{picture.shape[0]}")
        for name, image in columns.items():
            scores = {} if sharp is None else {"psnr": psnr(image, sharp), "ssim": ssim(image, sharp)}
            records.append({"picture": source.name, "weights": name, **scores})
        if sharp is not None:
            columns["truth"] = sharp
        _sheet(columns, folder / f"{source.stem}.png", options)
    return records


def _sheet(columns: dict[str, Picture], target: Path, options: Options) -> None:
    if target.exists() and not options.overwrite:
        raise OutputError(f"{target}: exists already; -y replaces it")
    labelled = []
    for name, image in columns.items():
        head = np.full((24, image.shape[1], 3), 255, np.uint8)
        cv2.putText(head, name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        labelled.append(np.concatenate([head, image]))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(labelled, 1)).save(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error})") from error
