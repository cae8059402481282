"""HEIC and AVIF as phones write them, in tiles: the boxes put together here, the tiles coded by ffmpeg."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import av
import numpy as np

from fpsgan.video.ffmpeg import ffmpeg_path

TILE = 64
CODERS = {  # brand: (ffmpeg's arguments, type of a tile, name of the box with the decoder's settings)
    "heic": (
        ["-c:v", "libx265", "-x265-params", "keyint=1:info=0:log-level=error", "-tag:v", "hvc1"],
        b"hvc1",
        b"hvcC",
    ),
    "avif": (["-c:v", "libsvtav1", "-g", "1"], b"av01", b"av1C"),
}


def write_grid(path: Path, picture: np.ndarray, brand: str, *, icc: bytes = b"", exif: bytes = b"", turns: int = 0,
               mirrored: bool = False) -> Path:  # fmt: skip
    """``picture``: [H, W, 3] uint8 RGB, sides multiples of 64. ``turns``: quarters counter-clockwise that a viewer has
    to turn it by (irot), ``mirrored``: and after that mirror it, left to right (imir)."""
    coder, item_type, settings_name = CODERS[brand]
    rows, columns = picture.shape[0] // TILE, picture.shape[1] // TILE
    tiles = picture.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    video = path.with_suffix(".mp4")
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{TILE}x{TILE}", "-i", "-"]
    colour = ["-vf", "scale=out_color_matrix=bt601:out_range=tv,format=yuv420p", "-crf", "8"]
    subprocess.run([ffmpeg_path(), "-v", "error", "-y", *raw, *colour, *coder, str(video)], input=tiles.tobytes(),
                   check=True, capture_output=True)  # fmt: skip
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        settings = bytes(stream.codec_context.extradata)
        coded = [bytes(packet) for packet in container.demux(stream) if packet.size]
    video.unlink()
    assert len(coded) == len(tiles)
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, picture.shape[1], picture.shape[0])
    items = [*((item_type, data) for data in coded), (b"grid", grid)]
    whole = len(items)  # the number of the grid: items count from 1
    if exif:
        items.append((b"Exif", struct.pack(">I", 0) + exif.removeprefix(b"Exif\0\0")))
    properties = [
        _box(settings_name, settings),
        _full(b"ispe", struct.pack(">II", TILE, TILE)),
        _full(b"ispe", struct.pack(">II", picture.shape[1], picture.shape[0])),
        _full(b"pixi", bytes([3, 8, 8, 8])),
        _box(b"colr", b"prof", icc) if icc else _box(b"free"),
        _box(b"irot", bytes([turns])),
        _box(b"imir", bytes([1])),  # about a vertical axis
    ]
    of_grid = [3, 4, *([5] if icc else []), *([0x86] if turns else []), *([0x87] if mirrored else [])]
    belongs = {number: [0x81, 2, 4] for number in range(1, whole)} | {whole: of_grid}
    references = _box(b"dimg", struct.pack(f">HH{whole - 1}H", whole, whole - 1, *range(1, whole)))
    if exif:
        references += _box(b"cdsc", struct.pack(">HHH", whole + 1, 1, whole))

    def meta(start: int) -> bytes:
        places, at = b"", start
        for number, (_, data) in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, at, len(data))
            at += len(data)
        entries = b"".join(
            _full(b"infe", struct.pack(">HH", number, 0), kind, b"\0", version=2)
            for number, (kind, _) in enumerate(items, 1)
        )
        links = b"".join(struct.pack(">HB", number, len(found)) + bytes(found) for number, found in belongs.items())
        return _full(
            b"meta",
            _full(b"hdlr", bytes(4), b"pict", bytes(13)),
            _full(b"pitm", struct.pack(">H", whole)),
            _full(b"iloc", struct.pack(">BBH", 0x44, 0, len(items)), places),
            _full(b"iinf", struct.pack(">H", len(items)), entries),
            _full(b"iref", references),
            _box(b"iprp", _box(b"ipco", *properties), _full(b"ipma", struct.pack(">I", len(belongs)), links)),
        )

    head = _box(b"ftyp", brand.encode(), bytes(4), b"mif1", brand.encode(), b"miaf")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + _box(b"mdat", *(data for _, data in items)))
    return path


def _box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + kind + data


def _full(kind: bytes, *parts: bytes, version: int = 0) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]), *parts)
