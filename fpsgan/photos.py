"""Photos, deblurred one by one, with the metadata that the camera wrote."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deblur import Deblurrer, Settings, blur_score
from fpsgan import weights
from fpsgan.errors import FpsganError, InputError, OutputError
from fpsgan.options import Options
from fpsgan.runtime import at_once, library_errors, pick_device, pick_dtype, sharing_cores
from fpsgan.threads import in_order
from fpsgan.video.files import check_target, make_folder, whole
from fpsgan.video.frame import check_size
from fpsgan.video.photo import KINDS, Photo, Pixels, read, size_of, write

__all__ = ["PhotoResult", "compare", "deblur_photos"]

WRITTEN = tuple(suffix for suffix, (_, how) in KINDS.items() if how is not None)


@dataclass(frozen=True)
class PhotoResult:
    """What became of a photo: its ``score`` (see deblur.blur_score), and the ``strength`` of the deblurring, 0 (left
    untouched) to 1."""

    source: str
    target: str
    width: int
    height: int
    score: float
    strength: float
    seconds: float


@library_errors()
def deblur_photos(
    sources: Sequence[Path],
    targets: Sequence[Path],
    options: Options,
    *,
    on_error: Callable[[FpsganError], None] | None = None,
) -> list[PhotoResult]:
    """Sharpen each source into its target; of the options, those about deblurring, the machine and overwriting apply.

    Kept: orientation (turned upright), ICC profile, EXIF, transparency, grey, and 16 bits in PNG and TIFF. A photo that
    needs no sharpening is copied bit for bit if the format stays the same. Raises a FpsganError before anything is
    written if a target exists or is of a kind that cannot be written; each target is whole or absent. On a CPU several
    are processed in parallel. The first that fails stops it all, and those before it are kept; with ``on_error``, which
    is called with the error, the others are done all the same.
    """
    on_failure = on_error or _raise
    pairs: list[tuple[Path, Path]] = []
    for source, target in zip(sources, targets, strict=True):
        try:
            make_folder(target.parent)
            pairs.append((source, check_target(source, target, overwrite=options.overwrite, suffixes=WRITTEN)))
        except OutputError as error:
            on_failure(error)
    deblurrer = _deblurrer(options, options.deblur_weights)
    settings = options.deblurring
    workers = min(at_once(deblurrer.device, max(map(_pixels, sources), default=1)), max(1, len(pairs)))

    def work(pair: tuple[Path, Path]) -> PhotoResult | FpsganError:
        try:
            return _deblur(*pair, deblurrer, settings)
        except FpsganError as error:
            return error

    results: list[PhotoResult] = []
    with sharing_cores(workers):
        for result in in_order(pairs, work, workers):
            if isinstance(result, FpsganError):
                on_failure(result)
            else:
                results.append(result)
    return results


def _raise(error: FpsganError) -> None:
    raise error


def _pixels(path: Path) -> int:
    """How many a photo has; 1 if it cannot be read, which is reported when its turn comes."""
    try:
        width, height = size_of(path)
    except InputError:
        return 1
    return width * height


def _deblurrer(options: Options, name: str | Path) -> Deblurrer:
    device = pick_device(options.device)
    return Deblurrer(weights.load(name, expect="deblur"), device, pick_dtype(device, options.half), options.tile)


@library_errors()
def _deblur(source: Path, target: Path, deblurrer: Deblurrer, settings: Settings) -> PhotoResult:
    began = time.perf_counter()
    photo = _open(source)
    picture = photo.rgb
    score = blur_score(_eight_bits(picture))
    strength = settings.strength_for(score)
    sharp = _sharpened(picture, deblurrer, strength, cautious=settings.cautious)
    if sharp is picture:
        strength = 0.0  # no blur was found that these weights could remove
    picture = sharp
    try:
        with whole(target) as part:
            if not strength and photo.format == KINDS[target.suffix.lower()][0]:
                shutil.copyfile(source, part)
            else:
                write(photo.with_rgb(picture) if strength else photo, part, target.suffix)
    except (ValueError, RuntimeError) as error:  # Pillow, of what a format cannot hold
        raise OutputError(f"{target}: cannot be written ({' '.join(str(error).split())[:200]})") from error
    height, width = picture.shape[:2]
    return PhotoResult(str(source), str(target), width, height, score, strength, time.perf_counter() - began)


def _open(path: Path) -> Photo:
    photo = read(path)
    height, width = photo.pixels.shape[:2]
    check_size(width, height, path)
    return photo


def _sharpened(picture: Pixels, deblurrer: Deblurrer, strength: float, *, cautious: bool = False) -> Pixels:
    """The very same array where there is nothing to do."""
    top = np.iinfo(picture.dtype).max
    done = deblurrer.sharpen(picture.astype(np.float32) / np.float32(top), strength, cautious=cautious)
    if not done.touched:
        return picture
    codes = np.clip(np.rint(top * done.picture), 0, top)
    return codes.astype(np.uint8) if picture.dtype == np.uint8 else codes.astype(np.uint16)


def _eight_bits(picture: Pixels) -> NDArray[np.uint8]:
    return picture.astype(np.uint8) if picture.dtype == np.uint8 else np.rint(picture / 257).astype(np.uint8)


@library_errors()
def compare(
    sources: Sequence[Path], folder: Path, names: Sequence[str], options: Options, truth: Path | None = None
) -> list[dict[str, Any]]:
    """Sheets ``<photo>.png`` in ``folder``: the photo, the result of each of the weights, the truth, side by side.

    ``truth`` is a folder with a sharp picture of the same name (any suffix) and size for each photo. Returns a record
    for each photo and column, except the truth: "picture", "weights" ("input" for the photo itself) and, given a truth,
    "psnr" in dB and "ssim" of RGB. Raises InputError if a truth is missing or of another size.
    """
    from fpsgan.training.metrics import psnr, ssim

    deblurrers = {name: _deblurrer(options, name) for name in names}
    settings = Settings("auto" if options.deblur == "auto" else "on", options.deblur_strength)
    records = []
    for source in sources:
        picture = _eight_bits(_open(source).rgb)
        strength = settings.strength_for(blur_score(picture))
        columns = {"input": picture}
        columns |= {name: _eight_bits(_sharpened(picture, by, strength)) for name, by in deblurrers.items()}
        sharp = None
        if truth is not None:
            found = [path for path in sorted(truth.glob(f"{source.stem}.*")) if path.suffix.lower() in KINDS]
            if not found:
                raise InputError(f"{truth}: holds no picture called {source.stem}")
            sharp = _eight_bits(_open(found[0]).rgb)
            if sharp.shape != picture.shape:
                raise InputError(f"{found[0]}: must have the size of {source}, {picture.shape[1]}×{picture.shape[0]}")
        for name, image in columns.items():
            scores = {} if sharp is None else {"psnr": psnr(image, sharp), "ssim": ssim(image, sharp)}
            records.append({"picture": source.name, "weights": name, **scores})
        if sharp is not None:
            columns["truth"] = sharp
        _sheet(columns, folder / f"{source.stem}.png", options)
    return records


def _sheet(columns: dict[str, NDArray[np.uint8]], target: Path, options: Options) -> None:
    if target.exists() and not options.overwrite:
        raise OutputError(f"{target}: exists already; -y replaces it")
    labelled = []
    for name, image in columns.items():
        head = np.full((24, image.shape[1], 3), 255, np.uint8)
        cv2.putText(head, name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        labelled.append(np.concatenate([head, image]))
    with whole(target) as part:
        Image.fromarray(np.concatenate(labelled, 1)).save(part)
