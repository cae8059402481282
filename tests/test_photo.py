"""Photos: what is around the picture stays, sharp ones are copied, and mistakes are one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from deblur.blur import convolve, path_kernel, shake_path
from fpsgan import cli
from fpsgan.demo import render_scene
from fpsgan.errors import InputError, OutputError
from fpsgan.photo import compare, deblur_photos, is_photo
from fpsgan.pipeline import Options

SHARP = render_scene(0.2, 96, 64)
BLURRED = np.rint(255 * convolve(SHARP, path_kernel(shake_path(9, np.random.default_rng(0))))).astype(np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ON = Options(deblur="on", half=False)


def photo(path: Path, picture: np.ndarray = BLURRED, **save: object) -> Path:
    Image.fromarray(picture).save(path, **save)
    return path


def read(path: Path) -> Image.Image:
    with Image.open(path) as file:
        file.load()
        return file


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read(path)).astype(int)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fpsgan", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_orientation_profile_and_exif_are_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned by 90°; its maker
    source = photo(tmp_path / f"in{suffix}", exif=exif, icc_profile=PROFILE)
    (result,) = deblur_photos([source], [tmp_path / f"out{suffix}"], ON)
    after = read(tmp_path / f"out{suffix}")
    assert after.size == (64, 96) == (result.width, result.height)
    assert after.info["icc_profile"] == PROFILE
    assert after.getexif().get(0x0112, 1) == 1
    if suffix != ".tiff":  # whose EXIF is not carried over
        assert after.getexif()[0x010F] == "a camera"
    assert np.abs(np.asarray(after.convert("RGB")).astype(int) - np.rot90(BLURRED, -1)).mean() < 6
    assert result.strength == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P"])
def test_transparency_and_grey_are_kept(tmp_path: Path, mode: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))
    source = Image.fromarray(BLURRED).convert("RGBA")
    source.putalpha(Image.fromarray(alpha))
    source.convert(mode).save(tmp_path / "in.png")
    deblur_photos([tmp_path / "in.png"], [tmp_path / "out.png"], ON)
    after = read(tmp_path / "out.png")
    assert after.mode == ("RGBA" if mode == "P" else mode)  # a palette has no room for new colours
    if "A" in mode:
        assert np.array_equal(np.asarray(after.getchannel("A")), alpha)


def test_a_sharp_photo_is_copied_to_the_bit(tmp_path: Path) -> None:
    source = photo(tmp_path / "in.jpg", SHARP, quality=70)
    (result,) = deblur_photos([source], [tmp_path / "out.jpg"], Options())
    assert (tmp_path / "out.jpg").read_bytes() == source.read_bytes() and result.strength == 0
    deblur_photos([source], [tmp_path / "out.png"], Options())
    assert np.array_equal(pixels(tmp_path / "out.png"), pixels(source))


def test_what_is_a_photo(tmp_path: Path) -> None:
    assert is_photo(photo(tmp_path / "a.webp"))
    frames = [Image.fromarray(BLURRED), Image.fromarray(SHARP)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "deep.png")
    assert not any(map(is_photo, (tmp_path / "moving.webp", tmp_path / "deep.png", tmp_path / "none.png", tmp_path)))


def test_mistakes_leave_everything_as_it_was(tmp_path: Path) -> None:
    source = photo(tmp_path / "in.png")
    there = photo(tmp_path / "there.png", SHARP)
    kept = there.read_bytes()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.jpg").write_bytes(photo(tmp_path / "whole.jpg").read_bytes()[:700])
    Image.fromarray(BLURRED).convert("CMYK").save(tmp_path / "print.jpg")
    photo(tmp_path / "tiny.png", BLURRED[:8, :8])
    Image.fromarray(BLURRED).convert("RGBA").save(tmp_path / "clear.png")
    for bad, target, kind, message in (
        (source, there, OutputError, "exists already; -y"),
        (source, source, OutputError, "is the input itself"),
        (source, tmp_path / "o.xyz", OutputError, "unknown kind of photo"),
        (tmp_path / "none.png", tmp_path / "o.png", InputError, "no such file"),
        (tmp_path / "text.jpg", tmp_path / "o.jpg", InputError, "not a readable photo"),
        (tmp_path / "half.jpg", tmp_path / "o.jpg", InputError, "not a readable photo"),
        (tmp_path / "print.jpg", tmp_path / "o.jpg", InputError, "colours are CMYK"),
        (tmp_path / "tiny.png", tmp_path / "o.png", InputError, "too small"),
        (tmp_path / "clear.png", tmp_path / "o.jpg", OutputError, "JPEG has no transparency"),
    ):
        with pytest.raises(kind, match=message) as caught:
            deblur_photos([bad], [target], ON)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("o.*")) and not list(tmp_path.glob(".*"))
    assert there.read_bytes() == kept


def test_a_folder_of_photos_goes_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "a.jpg")
    photo(tmp_path / "in" / "b.png", BLURRED[:48])  # another size: no video could hold both
    assert run(monkeypatch, "deblur", tmp_path / "in", "-o", tmp_path / "out", "--deblur", "on", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert [Path(record["target"]).name for record in records] == ["a.jpg", "b.png"]
    assert pixels(tmp_path / "out" / "b.png").shape == (48, 96, 3)
    # several inputs, one of them alone, and one photo into a file
    again = tmp_path / "again"
    again.mkdir()
    assert run(monkeypatch, "deblur", tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.png", "-o", again) == 0
    assert sorted(path.name for path in again.iterdir()) == ["a.jpg", "b.png"]
    assert run(monkeypatch, "deblur", "-i", tmp_path / "in" / "a.jpg", "-o", tmp_path / "c.png") == 0
    assert pixels(tmp_path / "c.png").shape == (64, 96, 3)


def test_several_at_once_come_out_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [photo(tmp_path / f"{n}.png", np.roll(BLURRED, 8 * n, 1)) for n in range(5)]
    for workers in (1, 3):
        monkeypatch.setattr("fpsgan.photo.at_once", lambda device, pixels, workers=workers: workers)
        targets = [tmp_path / str(workers) / source.name for source in sources]
        results = deblur_photos(sources, targets, ON)
        assert [Path(result.source).name for result in results] == [source.name for source in sources]
    for source in sources:
        assert np.abs(pixels(tmp_path / "1" / source.name) - pixels(tmp_path / "3" / source.name)).max() <= 1
    (tmp_path / "2.png").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"2\.png"):
        deblur_photos(sources, [tmp_path / "again" / source.name for source in sources], ON)
    assert {"0.png", "1.png"} <= {path.name for path in (tmp_path / "again").iterdir()}
    assert not [path for path in (tmp_path / "again").iterdir() if path.name.endswith(".partial")]


def test_sheets_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "truth").mkdir()
    source = photo(tmp_path / "a.png")
    photo(tmp_path / "truth" / "a.webp", SHARP, lossless=True)
    records = compare([source], tmp_path / "out", ["deblur-mobilenet"], ON, tmp_path / "truth")
    assert [record["weights"] for record in records] == ["input", "deblur-mobilenet"]
    error = np.mean((BLURRED.astype(float) - SHARP) ** 2)
    assert records[0]["psnr"] == pytest.approx(10 * np.log10(255**2 / error)) and 0 < records[0]["ssim"] < 1
    assert pixels(tmp_path / "out" / "a.png").shape == (64 + 24, 3 * 96, 3)
    words = ("deblur", source, "-o", tmp_path / "out", "-y", "--compare", "deblur-mobilenet")
    assert run(monkeypatch, *words, "--truth", tmp_path / "truth") == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| | input | deblur-mobilenet |" and table[-1].startswith("| mean | ") and len(table) == 4
    photo(tmp_path / "truth" / "a.webp", SHARP[:32])
    assert run(monkeypatch, *words, "--truth", tmp_path / "truth") == 1
    assert "must have the size" in capsys.readouterr().err
    assert run(monkeypatch, "deblur", source, "-o", tmp_path / "s.png", "--compare", "deblur-mobilenet") == 2
