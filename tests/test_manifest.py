"""The manifest: what is written is read again, and what is wrong with one is said."""

from __future__ import annotations

import errno
import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from fpsgan.errors import InputError, OutputError
from fpsgan.training.manifest import MANIFEST, Clip, read_manifest, sources, write_manifest

LINE = '{"name":"a","source":"a","split":"val","count":1,"width":8,"height":8,"rate":"0","frames":["a"],"subset":"x"}'


def packed(folder: Path, suffix: str = ".png") -> tuple[Clip, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(3)]
    codes = [cv2.imencode(suffix, image[..., ::-1])[1].tobytes() for image in images]
    (folder / "p.bin").write_bytes(b"before" + b"".join(codes))
    offsets = tuple(np.cumsum([6, *map(len, codes)]).tolist())
    clip = Clip(
        "ä/1", "ä.mp4", "val", 3, 30, 20, rate=Fraction(60000, 1001), start=7, crop=(1, 2, 30, 20), motion=1.5,
        sharpness=1.2, licence="CC0", subset="hard", pack="p.bin", offsets=offsets, root=folder,
    )  # fmt: skip
    return clip, images


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    clip, images = packed(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), images[0][..., ::-1])
    pair = Clip("b", "b", "train", 1, 30, 20, frames=("a.png",), blurred=("a.png",), root=tmp_path)
    assert write_manifest(tmp_path, [clip, pair]) == tmp_path / MANIFEST
    found = read_manifest(tmp_path)
    assert found == [clip, pair]
    assert read_manifest(tmp_path / MANIFEST, "train") == [pair]
    assert sources([clip, pair, clip]) == ["ä.mp4", "b"]
    for k, image in enumerate(images):
        assert (found[0].read(k) == image).all()
    assert (found[1].read(0) == images[0]).all()
    assert (found[1].read_blurred(0) == images[0]).all()


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    clip, images = packed(tmp_path / "here")
    write_manifest(tmp_path / "here", [clip])
    (tmp_path / "here").rename(tmp_path / "there")
    assert (read_manifest(tmp_path / "there")[0].read(1) == images[1]).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("no json\n", "line 1: not a line of a manifest"),
        ("[1]\n", "line 1: not a line of a manifest"),
        ('{"rate": "0"}\n', "line 1: not a line of a manifest"),
        (LINE.replace("val", "dev"), "split 'dev'"),
        (LINE.replace('"count":1', '"count":2'), "2 frames, but places for 1"),
        (LINE.replace("subset", "who"), "who"),
    ],
)  # fmt: skip
def test_damaged_manifests(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=said):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset build"):
        read_manifest(tmp_path)


def test_frames_that_cannot_be_read(tmp_path: Path) -> None:
    clip, _ = packed(tmp_path)
    code = (tmp_path / "p.bin").read_bytes()
    (tmp_path / "p.bin").write_bytes(code[: clip.offsets[2]])
    clip.read(1)
    with pytest.raises(InputError, match=r"p.bin \(frame 2 of ä/1\): not a readable picture"):
        clip.read(2)
    (tmp_path / "p.bin").unlink()
    with pytest.raises(InputError, match="the manifest names this pack"):
        clip.read(0)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="8×8, the manifest says 30×20"):
        Clip("b", "b", "train", 1, 30, 20, frames=("a.png",), root=tmp_path).read(0)


def test_a_manifest_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, _ = packed(tmp_path)
    write_manifest(tmp_path, [clip])

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_manifest(tmp_path, [clip, clip])
    assert read_manifest(tmp_path) == [clip]
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "p.bin"]
