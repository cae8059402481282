"""Photos: what is around the picture stays, sharp ones are copied, and mistakes are one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from heif import write_grid
from PIL import Image, ImageCms, ImageOps

from deblur.blur import convolve, path_kernel, shake_path
from fpsgan import cli
from fpsgan.demo import render_scene
from fpsgan.errors import InputError, OutputError
from fpsgan.options import Options
from fpsgan.photos import compare, deblur_photos
from fpsgan.video.decode import decode
from fpsgan.video.photo import EXIF_ORIENTATIONS, Photo, kind_of, read, write
from fpsgan.video.probe import probe

SHARP = render_scene(0.2, 96, 64)
BLURRED = np.rint(255 * convolve(SHARP, path_kernel(shake_path(9, np.random.default_rng(0))))).astype(np.uint8)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ON = Options(deblur="on", half=False)


def photo(path: Path, picture: np.ndarray = BLURRED, **save: object) -> Path:
    Image.fromarray(picture).save(path, **save)
    return path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        file.load()
        return file


def pixels(path: Path) -> np.ndarray:
    return np.asarray(opened(path)).astype(int)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fpsgan", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".avif"])
def test_orientation_profile_and_exif_are_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"  # turned by 90°; its maker
    source = photo(tmp_path / f"in{suffix}", exif=exif, icc_profile=PROFILE)
    (result,) = deblur_photos([source], [tmp_path / f"out{suffix}"], ON)
    after = opened(tmp_path / f"out{suffix}")
    assert after.size == (64, 96) == (result.width, result.height)
    assert after.info["icc_profile"] == PROFILE
    assert after.getexif().get(0x0112, 1) == 1
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
    after = opened(tmp_path / "out.png")
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
    frames = [Image.fromarray(BLURRED), Image.fromarray(SHARP)]
    for suffix in (".webp", ".png", ".avif"):
        frames[0].save(tmp_path / f"still{suffix}")
        frames[0].save(tmp_path / f"moving{suffix}", save_all=True, append_images=frames[1:])
        assert kind_of(tmp_path / f"still{suffix}") == "photo"
        assert kind_of(tmp_path / f"moving{suffix}") == "video"
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "deep.png")
    frames[0].save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=frames[1:])  # with a second view
    assert kind_of(tmp_path / "deep.png") == kind_of(tmp_path / "two.jpg") == "photo"
    assert kind_of(tmp_path / "none.png") == kind_of(tmp_path / "clip.mp4") == "video"
    assert kind_of(tmp_path) == "folder"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("brand", ["heic", "avif"])
def test_a_tiled_photo_is_read_whole(tmp_path: Path, brand: str, suffix: str) -> None:
    whole = render_scene(0.2, 192, 128)
    exif = Image.Exif()
    exif[0x010F] = "a telephone"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    source = write_grid(
        tmp_path / f"in.{brand}", whole, brand, icc=PROFILE, exif=exif.tobytes(), turns=3, mirrored=True
    )
    target = tmp_path / f"out{suffix}"
    deblur_photos([source], [target], Options(deblur="off"))
    after = read(target)
    assert after.pixels.shape == (192, 128, 3)
    assert np.abs(after.pixels.astype(int) - np.fliplr(np.rot90(whole, 3))).mean() < 3
    if suffix != ".bmp":  # which has no room for them
        with Image.open(target) as file:
            assert file.info["icc_profile"] == PROFILE
            assert file.getexif()[0x010F] == "a telephone"
            assert file.getexif().get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"


@pytest.mark.parametrize("brand", ["heic", "avif"])
def test_a_tiled_photo_cut_short_or_damaged_is_refused(tmp_path: Path, brand: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a telephone"
    whole = write_grid(tmp_path / f"a.{brand}", render_scene(0.2, 192, 128), brand, exif=exif.tobytes()).read_bytes()
    for damaged in (whole[:200], whole[: len(whole) // 2], whole[:-1], whole.replace(b"Exif\0", b"Exi\xfa\0", 1)):
        (tmp_path / f"b.{brand}").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"b\.{brand}: not a readable photo") as caught:
            read(tmp_path / f"b.{brand}")
        assert kind_of(tmp_path / f"b.{brand}") == "photo" and "\n" not in str(caught.value)


def test_a_folder_of_telephone_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    write_grid(tmp_path / "in" / "IMG_1.HEIC", render_scene(0.2, 192, 128), "heic")
    photo(tmp_path / "in" / "IMG_1.jpg")
    assert run(monkeypatch, "deblur", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["IMG_1.HEIC.jpg", "IMG_1.jpg"]
    assert pixels(tmp_path / "out" / "IMG_1.HEIC.jpg").shape == (128, 192, 3)
    with pytest.raises(OutputError, match=r"o\.heic: unknown kind .*; known are .*\.avif"):
        deblur_photos([tmp_path / "in" / "IMG_1.HEIC"], [tmp_path / "o.heic"], ON)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.avif", "deep.png", "deep.tif"])
def test_every_exif_orientation(tmp_path: Path, name: str, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    if name.startswith("deep"):
        write(Photo(257 * SHARP.astype(np.uint16), "", exif=exif.tobytes()), tmp_path / name, Path(name).suffix)
    else:
        photo(tmp_path / name, SHARP, exif=exif, **({} if name == "a.tif" else {"quality": 95}))
    tagged = Image.fromarray(SHARP)
    tagged.getexif()[0x0112] = number
    expected = np.asarray(ImageOps.exif_transpose(tagged))
    assert np.array_equal(EXIF_ORIENTATIONS[number - 1].plane(SHARP), expected)
    after = read(tmp_path / name)
    scale = 257 if name.startswith("deep") else 1
    assert after.pixels.shape == expected.shape
    assert np.abs(after.pixels.astype(int) / scale - expected).mean() < 2.5
    with Image.open(tmp_path / name) as file:
        assert file.getexif().get(0x0112, 1) == number  # the test's own input is what it should be
    assert not after.exif or b"\x01\x12" not in after.exif[:40]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_stay_16_bits_with_profile_and_exif(tmp_path: Path, suffix: str, channels: int) -> None:
    fine = np.clip(
        BLURRED.astype(np.int64) * 257 + np.random.default_rng(0).integers(-128, 128, BLURRED.shape), 0, 65535
    )
    alpha = np.tile(np.linspace(0, 65535, 96).astype(np.uint16), (64, 1))[..., None]
    colour = fine.astype(np.uint16)[..., : 1 if channels < 3 else 3]
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769)[0x829A] = 0.02
    given = np.concatenate([colour, alpha], 2) if channels in (2, 4) else colour
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(Photo(given, "", PROFILE, exif.tobytes()), source, suffix)
    back = read(source)
    if channels == 2:  # written as colour
        assert np.array_equal(back.pixels[..., 0], given[..., 0]) and np.array_equal(
            back.pixels[..., -1], alpha[..., 0]
        )
    else:
        assert np.array_equal(back.pixels, given)
    (result,) = deblur_photos([source], [target], ON)
    after = read(target)
    assert result.strength == 1 and after.pixels.dtype == np.uint16
    assert len(np.unique(after.pixels[..., 0])) > 1000  # and no 8 bits stretched
    assert np.abs(after.rgb / 257 - BLURRED[..., : 1 if channels < 3 else 3]).mean() < 6
    if channels in (2, 4):
        assert np.array_equal(after.pixels[..., -1:], alpha)
    with Image.open(target) as file:
        assert file.info["icc_profile"] == PROFILE
        assert file.getexif()[0x010F] == "a camera"
        assert file.getexif().get_ifd(0x8769)[0x829A] == pytest.approx(0.02)
    deblur_photos([source], [tmp_path / "eight.webp"], Options(deblur="off"))
    assert read(tmp_path / "eight.webp").pixels.dtype == np.uint8


def test_the_length_of_a_row_is_no_bit_depth(tmp_path: Path) -> None:
    wide = render_scene(0.2, 720, 64)  # 2160 bytes a row
    for suffix in (".bmp", ".tif"):
        (result,) = deblur_photos([photo(tmp_path / f"in{suffix}", wide)], [tmp_path / f"out{suffix}"], ON)
        assert result.strength == 1
        assert read(tmp_path / f"out{suffix}").format == {".bmp": "BMP", ".tif": "TIFF"}[suffix]
        assert pixels(tmp_path / f"out{suffix}").shape == (64, 720, 3)


def test_a_suffix_that_lies_about_the_content(tmp_path: Path) -> None:
    source = photo(tmp_path / "in.png", SHARP, format="JPEG")
    deblur_photos([source], [tmp_path / "out.png"], Options())
    with Image.open(tmp_path / "out.png") as file:
        assert file.format == "PNG"
    assert np.array_equal(read(tmp_path / "out.png").pixels, read(source).pixels)
    photo(tmp_path / "in.tif", SHARP, format="WEBP", lossless=True)
    assert np.array_equal(read(tmp_path / "in.tif").pixels, SHARP)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(BLURRED).convert("CMYK").save(tmp_path / "print.tif")
    assert np.abs(read(tmp_path / "print.tif").pixels.astype(int) - BLURRED).mean() < 2
    Image.new("LAB", (64, 64)).save(tmp_path / "lab.tif")
    with pytest.raises(InputError, match="colours are LAB"):
        read(tmp_path / "lab.tif")


def test_pages_are_not_dropped_unsaid(tmp_path: Path) -> None:
    Image.fromarray(BLURRED).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(SHARP)])
    with pytest.raises(InputError, match=r"a\.tif: holds 2 pictures"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".heic", ".avif", ".bmp", ".tif", ".webp"])
def test_a_folder_of_photos_as_a_video(tmp_path: Path, suffix: str) -> None:
    """Each turned as its own tag says, in natural order, alike whatever the kind."""
    whole = render_scene(0.2, 192, 128)
    for number in (1, 2, 10):
        exif = Image.Exif()
        exif[0x0112] = 5  # transposed
        picture, path = np.roll(whole, 20 * number, 1), tmp_path / f"{number}{suffix}"
        if suffix == ".heic":
            write_grid(path, picture, "heic", turns=3, mirrored=True)
        elif suffix == ".bmp":
            photo(path, np.ascontiguousarray(picture.swapaxes(0, 1)))
        else:
            photo(path, picture, exif=exif, **({"quality": 95} if suffix != ".tif" else {}))
    info = probe(tmp_path)
    frames = list(decode(info))
    assert (info.width, info.height, len(frames), info.format.name) == (128, 192, 3, "gbrp")
    for number, frame in zip((1, 2, 10), frames, strict=True):
        expected = np.roll(whole, 20 * number, 1).swapaxes(0, 1)
        assert np.abs(255 * frame.as_rgb() - expected).mean() < 4


def test_deep_and_transparent_photos_as_a_video(tmp_path: Path) -> None:
    for channels, name in ((1, "gray16le"), (3, "gbrp16le"), (4, "gbrap16le")):
        folder = tmp_path / str(channels)
        folder.mkdir()
        deep = np.random.default_rng(0).integers(0, 65536, (48, 64, channels)).astype(np.uint16)
        write(Photo(deep, ""), folder / "a.png", ".png")
        info = probe(folder)
        (frame,) = decode(info)
        assert (info.format.name, info.color.full_range) == (name, True)
        planes = np.dstack(frame.planes)
        assert np.array_equal(planes if channels == 1 else planes[..., [2, 0, 1, 3][:channels]], deep)


@pytest.mark.parametrize("broken", ["1.png", "3.png"])
def test_a_broken_picture_in_a_folder_is_named(tmp_path: Path, broken: str) -> None:
    for number in range(1, 5):
        photo(tmp_path / f"{number}.png", np.roll(SHARP, number, 1))
    (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:300])
    info = probe(tmp_path)
    with pytest.raises(InputError, match=rf"{broken}: not a readable photo.*--on-error conceal") as caught:
        list(decode(info))
    assert "\n" not in str(caught.value)
    said: list[str] = []
    frames = list(decode(info, conceal=True, report=said.append))
    assert len(frames) == 3 and len(said) == 1 and broken in said[0]
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a readable photo"):
        probe(tmp_path)


def test_mistakes_leave_everything_as_it_was(tmp_path: Path) -> None:
    source = photo(tmp_path / "in.png")
    there = photo(tmp_path / "there.png", SHARP)
    kept = there.read_bytes()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.jpg").write_bytes(photo(tmp_path / "whole.jpg").read_bytes()[:700])
    Image.new("LAB", (64, 64)).save(tmp_path / "lab.tif")
    photo(tmp_path / "tiny.png", BLURRED[:8, :8])
    Image.fromarray(BLURRED).convert("RGBA").save(tmp_path / "clear.png")
    for bad, target, kind, message in (
        (source, there, OutputError, "exists already; -y"),
        (source, source, OutputError, "is the input itself"),
        (source, tmp_path / "o.xyz", OutputError, "unknown kind"),
        (tmp_path / "none.png", tmp_path / "o.png", InputError, "no such file"),
        (tmp_path / "text.jpg", tmp_path / "o.jpg", InputError, "not a readable photo"),
        (tmp_path / "half.jpg", tmp_path / "o.jpg", InputError, "not a readable photo"),
        (tmp_path / "lab.tif", tmp_path / "o.jpg", InputError, "colours are LAB"),
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
        monkeypatch.setattr("fpsgan.photos.at_once", lambda device, pixels, workers=workers: workers)
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
    assert [cell.strip() for cell in table[0].split("|")] == ["", "", "input", "deblur-mobilenet", ""]
    assert set(table[1]) == {"|", "-"} and table[-1].startswith("| mean ") and len(table) == 4  # Markdown
    photo(tmp_path / "truth" / "a.webp", SHARP[:32])
    assert run(monkeypatch, *words, "--truth", tmp_path / "truth") == 1
    assert "must have the size" in capsys.readouterr().err
    assert run(monkeypatch, "deblur", source, "-o", tmp_path / "s.png", "--compare", "deblur-mobilenet") == 2
