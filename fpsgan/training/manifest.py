"""The manifest: one JSON line per stretch of consecutive frames, the same for own footage and for every corpus.

A data set is a folder with `manifest.jsonl`. The frames of a line lie either in a pack beside it (JPEG or PNG files,
one after the other, at `offsets`) or in picture files (`frames`). Paths are relative to the folder, so that it can be
moved. `fpsgan dataset build` writes packs, `datasets/<corpus>/prepare.py` points at the corpus' own pictures.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import InputError
from fpsgan.video.files import whole

__all__ = ["MANIFEST", "SPLITS", "Clip", "read_manifest", "write_manifest"]

Image = NDArray[np.uint8]  # [H,W,3] RGB

MANIFEST = "manifest.jsonl"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one source, all of one size, at equal distances in time, without a cut.

    Either `pack` with `offsets` (count + 1 byte positions) or `frames` (count paths) says where the pictures are.
    `blurred`, where a corpus has it, holds the path of the blurred picture of each frame. `rate` is 0 where frames
    have no rate (triplets whose origin is not known).
    """

    name: str  # unique in the manifest
    source: str  # the file or folder that the frames come from: the unit of splitting
    split: str  # train, val or test
    count: int  # frames
    width: int
    height: int
    rate: Fraction = Fraction(0)  # frames per second
    start: int = 0  # of the first frame, in frames of the source
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height in the source's pixels; None: all of it
    motion: float = 0.0  # px per frame, median over what moves; 0: not measured
    sharpness: float = 0.0  # blur_score, median (about 1.1 is sharp, 2 all smooth); 0: not measured
    licence: str = "unknown"
    subset: str = ""  # e.g. "hard" of SNU-FILM
    pack: str = ""
    offsets: tuple[int, ...] = ()
    frames: tuple[str, ...] = ()
    blurred: tuple[str, ...] = ()
    root: Path = field(default=Path(), compare=False)  # the manifest's folder; not written

    def __post_init__(self) -> None:
        """ValueError where the fields contradict each other."""
        places = len(self.offsets) - 1 if self.pack else len(self.frames)
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r}: allowed are {', '.join(SPLITS)}")
        if self.count < 1 or places != self.count or (self.blurred and len(self.blurred) != self.count):
            raise ValueError(f"{self.name}: {self.count} frames, but places for {places} ({len(self.blurred)} blurred)")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "root"}
        return {**values, "rate": str(self.rate)}

    @staticmethod
    def from_json(values: dict[str, Any], root: Path) -> Clip:
        """The inverse of `to_json`. ValueError, TypeError or KeyError for what is no clip."""
        if not isinstance(values, dict):
            raise TypeError(f"{type(values).__name__} instead of an object")
        lists = {name: tuple(values.get(name) or ()) for name in ("offsets", "frames", "blurred")}
        crop = tuple(values["crop"]) if values.get("crop") else None
        return Clip(**{**values, **lists, "rate": Fraction(values["rate"]), "crop": crop}, root=root)

    def read(self, index: int) -> Image:
        """Frame `index` (0 … count − 1) as RGB uint8 [height, width, 3]. InputError if it cannot be read."""
        if not self.pack:
            return self._picture(self.root / self.frames[index])
        begin, end = self.offsets[index : index + 2]
        path = self.root / self.pack
        try:
            with path.open("rb") as file:
                file.seek(begin)
                code = np.frombuffer(file.read(end - begin), np.uint8)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}; the manifest names this pack") from error
        return self._decoded(code, f"{path} (frame {index} of {self.name})")

    def read_blurred(self, index: int) -> Image:
        """The blurred picture of frame `index`, as `read`. InputError if it cannot be read."""
        return self._picture(self.root / self.blurred[index])

    def _picture(self, path: Path) -> Image:
        try:
            code = np.fromfile(path, np.uint8)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}; the manifest names this picture") from error
        return self._decoded(code, str(path))

    def _decoded(self, code: NDArray[np.uint8], what: str) -> Image:
        image = cv2.imdecode(code, cv2.IMREAD_COLOR) if code.size else None
        if image is None:
            raise InputError(f"{what}: not a readable picture; build the data set again")
        if image.shape[:2] != (self.height, self.width):
            raise InputError(f"{what}: {image.shape[1]}×{image.shape[0]}, the manifest says {self.width}×{self.height}")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_manifest(folder: str | Path, split: str | None = None) -> list[Clip]:
    """The clips of a data set, those of one split if given. InputError for no, an empty or a damaged manifest."""
    folder = Path(folder)
    path = folder / MANIFEST if folder.is_dir() else folder
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; `fpsgan dataset build` or datasets/<corpus>/prepare.py writes one"
        ) from error
    clips = []
    for number, line in enumerate(lines, 1):
        try:
            clips.append(Clip.from_json(json.loads(line), path.parent))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}, line {number}: not a line of a manifest ({error})") from error
    if not clips:
        raise InputError(f"{path}: empty; build the data set again")
    return [clip for clip in clips if split is None or clip.split == split]


def write_manifest(folder: str | Path, clips: Iterable[Clip]) -> Path:
    """Write `clips` as `folder`'s manifest, whole or not at all. OutputError if that is not possible."""
    path = Path(folder) / MANIFEST
    with whole(path) as part, part.open("w", encoding="utf-8") as file:
        for clip in clips:
            file.write(json.dumps(clip.to_json(), ensure_ascii=False) + "\n")
    return path


def sources(clips: Sequence[Clip]) -> list[str]:
    """The distinct sources, in order of appearance."""
    return list(dict.fromkeys(clip.source for clip in clips))
