"""Still pictures, read and written with their bit depth, transparency, orientation, ICC profile and EXIF.

Pillow, with pi-heif for HEIC, reads and writes everything except 16-bit colour and EXIF in a compressed TIFF: those
pixels go through OpenCV, and the rest of the file is written here.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pi_heif
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin

from fpsgan.errors import InputError
from fpsgan.video.frame import Orientation

__all__ = ["KINDS", "Photo", "kind_of", "name_for", "read", "read_frame", "size_of", "write"]

pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about single tags that it cannot read
Image.MAX_IMAGE_PIXELS = None  # a limit meant for uploads of strangers; there are cameras with 200 megapixels

# Suffix → (Pillow's name of the format, options for writing): close to lossless where there is a choice, not to blur
# again what was sharpened. None: read-only.
KINDS: dict[str, tuple[str, dict[str, Any] | None]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".avif": ("AVIF", {"quality": 92, "subsampling": "4:4:4"}),
    ".heic": ("HEIF", None),
    ".heif": ("HEIF", None),
    ".hif": ("HEIF", None),
}
FORMATS = sorted({format for format, _ in KINDS.values()})

# By EXIF's orientation number, from 1
EXIF_ORIENTATIONS = (
    Orientation(), Orientation(0, True), Orientation(180), Orientation(180, True),
    Orientation(270, True), Orientation(270), Orientation(90, True), Orientation(90),
)  # fmt: skip

# TIFF tags that describe the layout of the pixels in the file, or are kept by other means: never copied
LAYOUT_TAGS = {
    *range(254, 267), 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, *range(317, 326), 330, 338, 339, 347,
    *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675,
}  # fmt: skip

SUB_IFDS = {int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo)}

# Everything that Pillow and its plug-ins raise for a damaged file
BROKEN = (
    OSError, SyntaxError, ValueError, RuntimeError, EOFError, LookupError, TypeError, ArithmeticError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip

# The types of a HEIF file's items, in its boxes "infe" (ISO/IEC 14496-12, 8.11.6)
ITEM_TYPES = re.compile(rb"infe(?:\x02.{7}|\x03.{9})(.{4})", re.DOTALL)

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """``pixels``: [H, W, C] uint8 or uint16, upright; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). ``icc``,
    ``exif``: as bytes, without the orientation, b"" for none. ``format``: Pillow's name of the file's format."""

    pixels: Pixels
    format: str
    icc: bytes = b""
    exif: bytes = b""

    @property
    def rgb(self) -> Pixels:
        """[H, W, 3], without the alpha."""
        return self.pixels[..., :3] if self.pixels.shape[2] > 2 else self.pixels[..., :1].repeat(3, 2)

    def with_rgb(self, rgb: Pixels) -> Photo:
        """The same photo with other colours, [H, W, 3]: grey stays grey, alpha stays."""
        channels = self.pixels.shape[2]
        if channels < 3:
            rgb = np.rint(rgb.mean(2, keepdims=True)).astype(rgb.dtype)
        alpha = self.pixels[..., channels - 1 :] if channels in (2, 4) else self.pixels[..., :0]
        return dataclasses.replace(self, pixels=np.concatenate([rgb, alpha], 2))


def kind_of(path: Path) -> Literal["photo", "folder", "video"]:
    """What a source is. A photo is one by its suffix and its content: animations are videos.

    An unreadable file with a photo's suffix counts as a photo: ``read`` reports what is wrong with it."""
    if path.is_dir():
        return "folder"
    if path.suffix.lower() not in KINDS or not path.is_file():
        return "video"
    try:
        with _opened(path) as file:
            moving = file.format in ("PNG", "WEBP", "AVIF") and getattr(file, "n_frames", 1) > 1
            return "video" if moving else "photo"
    except BROKEN:
        return "photo"


def name_for(source: Path) -> str:
    """The name of a photo's result in another folder: its own, plus ".jpg" if its format is read-only."""
    return source.name if KINDS[source.suffix.lower()][1] is not None else f"{source.name}.jpg"


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) as stored, from the header alone. Raises InputError."""
    try:
        with _opened(path) as file:
            return file.size
    except BROKEN as error:
        raise _unreadable(path, error) from error


def read(path: Path) -> Photo:
    """The photo, upright, by the content of the file and not by its suffix.

    CMYK becomes RGB, by its profile, if it has one, to sRGB. Raises InputError for a file that is not a photo or is
    damaged, for several pages, and for colour spaces without a defined conversion to RGB."""
    try:
        with _opened(path) as file:
            deep = any(";16" in part for tile in file.tile for part in _words(tile.args))
            format, icc, exif = str(file.format), file.info.get("icc_profile") or b"", file.getexif()
            number = exif.get(ExifTags.Base.Orientation, 1)
            for tag in SUB_IFDS & set(exif):
                exif.get_ifd(tag)  # reads it, while the file is open
            pages = getattr(file, "n_frames", 1) if format == "TIFF" else 1
            file.load()  # even if OpenCV reads it later, which does not report a truncated file
            photo = ImageOps.exif_transpose(file)
        if deep:
            pixels = _deep_pixels(path)
            if format == "PNG" and number in range(1, 9):  # OpenCV turns a TIFF upright by itself
                pixels = EXIF_ORIENTATIONS[number - 1].plane(pixels)
        else:
            photo, icc = _plain(photo, icc)
            pixels = np.asarray(photo)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except BROKEN as error:
        raise _unreadable(path, error) from error
    if pages > 1:
        raise InputError(f"{path}: holds {pages} pictures; save them one by one first")
    if not deep and photo.mode not in ("RGB", "RGBA", "L", "LA"):
        raise InputError(f"{path}: its colours are {photo.mode}; save it as RGB first")
    return Photo(pixels if pixels.ndim == 3 else pixels[..., None], format, icc, _exif(exif))


def read_frame(path: Path) -> Any:
    """The photo as a PyAV frame, as if decoded. Raises InputError as ``read`` does."""
    photo = read(path)
    pixels = photo.pixels
    if pixels.shape[2] == 2:
        pixels = np.concatenate([photo.rgb, pixels[..., 1:]], 2)
    names = {1: ("gray", "gray16le"), 3: ("rgb24", "rgb48le"), 4: ("rgba", "rgba64le")}
    data: Any = np.ascontiguousarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    frame: Any = av.VideoFrame.from_ndarray(data, names[pixels.shape[2]][data.dtype == np.uint16])
    frame.color_range = 2
    if pixels.shape[2] > 1:
        frame.colorspace = 0  # H.273: RGB
    return frame


def write(photo: Photo, path: Path, suffix: str) -> None:
    """Write to ``path`` in the format of ``suffix``, whatever ``path`` is called. PNG and TIFF keep 16 bits.

    Raises ValueError for what the format cannot hold, OSError if it cannot be written."""
    format, options = KINDS[suffix.lower()]
    if options is None:
        raise ValueError(f"{format} can be read but not written")
    pixels = photo.pixels
    channels = pixels.shape[2]
    if format == "JPEG" and channels in (2, 4):
        raise ValueError("JPEG has no transparency; choose .png, .webp or .tiff")
    if format == "TIFF" or (format == "PNG" and pixels.dtype == np.uint16):
        if channels == 2 and pixels.dtype == np.uint16:  # neither library supports 16-bit grey with alpha
            photo = dataclasses.replace(photo, pixels=np.concatenate([photo.rgb, pixels[..., 1:]], 2))
        path.write_bytes(_tiff(photo) if format == "TIFF" else _deep_png(photo))
        return
    if pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    image = Image.fromarray(pixels if channels > 1 else pixels[..., 0])
    if image.mode == "LA" and format != "PNG":
        image = image.convert("RGBA")
    about = {"icc_profile": photo.icc, "exif": photo.exif}
    image.save(path, format=format, **options, **{name: data for name, data in about.items() if data})


def _opened(path: Path) -> ImageFile.ImageFile:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    # pi-heif 1.4 crashes the whole process if an item's type, four letters, is not valid UTF-8
    if head[4:8] == b"ftyp" and not all(kind.isascii() for kind in ITEM_TYPES.findall(head)):
        raise ValueError("its list of items is damaged")
    return Image.open(path, formats=FORMATS)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable photo ({' '.join(str(error).split())[:200] or 'too large'})")


def _words(arguments: Any) -> list[str]:
    """The strings among a decoder's arguments in Pillow: the layout of the samples is one of them ("RGB;16B")."""
    return [part for part in (arguments if isinstance(arguments, tuple) else (arguments,)) if isinstance(part, str)]


def _exif(exif: Image.Exif) -> bytes:
    for tag in LAYOUT_TAGS & set(exif):
        del exif[tag]
    return exif.tobytes() if len(exif) else b""


def _plain(photo: Image.Image, icc: bytes) -> tuple[Image.Image, bytes]:
    """As RGB, RGBA, L or LA, if Pillow can convert it, and the profile that goes with it."""
    if photo.mode == "CMYK":
        if not icc:
            return photo.convert("RGB"), b""
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        print_profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        made = ImageCms.profileToProfile(photo, print_profile, srgb, outputMode="RGB")
        assert made is not None  # it is only None in place
        return made, srgb.tobytes()
    if photo.mode in ("P", "PA"):
        return photo.convert("RGBA" if "transparency" in photo.info or photo.mode == "PA" else "RGB"), icc
    other = {"1": "L", "RGBX": "RGB", "YCbCr": "RGB", "RGBa": "RGBA", "La": "LA"}
    return photo.convert(other[photo.mode]) if photo.mode in other else photo, icc


def _deep_pixels(path: Path) -> Any:
    """[H, W] or [H, W, 3 or 4] uint16, RGB, as stored."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its 16 bits are in a layout that cannot be read")
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _deep_png(photo: Photo) -> bytes:
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[photo.pixels.shape[2]]
    whole = cv2.imencode(".png", np.ascontiguousarray(photo.pixels[..., order]))[1].tobytes()
    about = io.BytesIO()
    if photo.icc:
        PngImagePlugin.putchunk(about, b"iCCP", b"ICC\0\0", zlib.compress(photo.icc))
    if photo.exif:
        PngImagePlugin.putchunk(about, b"eXIf", photo.exif.removeprefix(b"Exif\0\0"))
    return whole[:33] + about.getvalue() + whole[33:]  # after the header of 33 bytes


def _tiff(photo: Photo) -> bytes:
    """Baseline TIFF 6.0 with one strip, deflated (Adobe's technical note of 2002)."""
    height, width, channels = photo.pixels.shape
    size = photo.pixels.dtype.itemsize
    data = zlib.compress(photo.pixels.astype(f"<u{size}").tobytes())
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    if photo.exif:
        exif = Image.Exif()
        exif.load(photo.exif)
        tags.update({tag: exif.get_ifd(tag) if tag in SUB_IFDS else value
                     for tag, value in exif.items()})  # fmt: skip
    layout = {256: width, 257: height, 258: (8 * size,) * channels, 259: 8, 262: 1 if channels < 3 else 2, 273: 0,
              277: channels, 278: height, 279: len(data), 284: 1}  # fmt: skip
    tags.update(layout)
    if channels in (2, 4):
        tags[338] = 2  # the extra sample is alpha, not premultiplied
    if photo.icc:
        tags.tagtype[34675] = 7
        tags[34675] = photo.icc
    file = io.BytesIO()
    tags.save(file)
    return file.getvalue() + data
