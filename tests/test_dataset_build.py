"""`fpsgan dataset build`: what is taken, what is left out and why, and that a killed build ends the same."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from fpsgan.cli import app
from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.training import build as module
from fpsgan.training.build import BuildOptions, Summary, build, find_videos
from fpsgan.training.footage import Footage, Reader, Window, analyse, blockiness, cadence
from fpsgan.training.manifest import Clip, read_manifest
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.probe import probe

WIDTH, HEIGHT = 176, 144
SMALL = BuildOptions(length=5, tile=128, tiles=1, min_fps=Fraction(48))
CRF0 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "4", "-pix_fmt", "yuv420p")


@functools.cache
def pattern(scene: int) -> np.ndarray:
    cells = np.random.default_rng(scene).integers(0, 256, (HEIGHT // 11 + 1, 120, 3), np.uint8)
    return np.repeat(np.repeat(cells, 11, 0), 11, 1)[:HEIGHT]


def picture(position: float, scene: int) -> np.ndarray:
    """A sharp pattern that has slid by `position` px, in colours of its scene: [H,W,3] uint8."""
    return pattern(scene)[:, round(position) % 1000 :][:, :WIDTH]


def film(
    path: Path, positions: Iterable[float], *, rate: int = 60, scene: int | list[int] = 0,
    filters: str = "null", encode: Iterable[str] = CRF0,
) -> Path:  # fmt: skip
    """A video whose frame k shows the pattern at positions[k]."""
    positions = list(positions)
    scenes = scene if isinstance(scene, list) else [scene] * len(positions)
    raw = b"".join(picture(p, s).tobytes() for p, s in zip(positions, scenes, strict=True))
    head = [ffmpeg_path(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}"]
    rest = ["-r", str(rate), "-i", "-", "-vf", filters, "-fps_mode", "passthrough", *encode, str(path)]
    done = subprocess.run([*head, *rest], input=raw, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return path


def look(path: Path, length: int = 5, min_rate: int = 10) -> Footage:
    return analyse(probe(path), length, Fraction(min_rate))


def steps(path: Path, windows: list[Window]) -> set[int]:
    """How far the pattern moves between neighbours in the windows, found by comparing the pictures themselves."""
    known = np.stack([picture(position, 0)[::8].astype(np.float32) for position in range(160)])
    found: set[int] = set()
    reader = Reader(probe(path), Footage(), use_decord=False)
    for window in windows:
        positions = [int(np.abs(known - image[::8]).mean((1, 2, 3)).argmin()) for image in reader.read(window)]
        found |= set(np.diff(positions).tolist())
    return found


# --- what a video offers -------------------------------------------------------------------------------------


def test_cuts_end_windows(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [3 * k for k in range(24)], scene=[0] * 12 + [1] * 12)
    found = look(path)
    assert found.cuts == 1
    assert len(found.windows) == 4  # two of 5 on either side of frame 12
    assert all(len({number < 12 for number in window.numbers}) == 1 for window in found.windows)


@pytest.mark.parametrize(
    ("new_every", "rate"),
    [
        ([1, 0], 30),  # 30 stored as 60
        ([1, 1, 0], 40),  # two of three
        ([1, 0, 1, 0, 0], 24),  # 24 in 60
        ([1, 0, 0, 0], 15),
        ([1, 1, 1, 1, 0], 48),  # 4 of 5
    ],
)
def test_padded_rates_are_undone(tmp_path: Path, new_every: list[int], rate: int) -> None:
    positions = 3 * (np.cumsum(np.resize(new_every, 48)) - 1)
    path = film(tmp_path / "a.mp4", positions)
    found = look(path)
    assert {window.rate for window in found.windows} == {Fraction(rate)}
    assert len(found.windows) >= 48 * rate // 60 // 5 - 1
    assert steps(path, found.windows) == {3}


def test_a_rate_padded_in_part(tmp_path: Path) -> None:
    moved = np.cumsum([1] * 30 + [1, 0] * 20)
    found = look(film(tmp_path / "a.mp4", 3 * moved))
    assert [window.rate for window in found.windows] == [60] * 6 + [30] * 3


def test_a_picture_stored_twice_in_place_of_a_lost_one_ends_a_window(tmp_path: Path) -> None:
    positions = [3 * k for k in range(30)]
    positions[12] = positions[11]
    found = look(film(tmp_path / "a.mp4", positions))
    assert {window.rate for window in found.windows} == {60}
    assert not any({11, 13} <= set(window.numbers) for window in found.windows)


def test_regular_losses_are_no_padding(tmp_path: Path) -> None:
    """Every third picture lost and replaced by the one before: it leaps after each repeat, at no even rate."""
    positions = [3 * (k - (k % 3 == 2)) for k in range(60)]
    assert look(film(tmp_path / "a.mp4", positions)).windows == []


def test_cadence_of_made_up_places() -> None:
    same = [1.0] * 100
    assert cadence(range(20), same, 13) == [(0, 20, Fraction(1))]
    assert cadence([k * 5 // 2 for k in range(20)], same, 13) == [(0, 20, Fraction(5, 2))]
    assert cadence([*range(12), *range(13, 26)], same, 13) == [(12, 25, Fraction(1))]
    assert cadence([0, 3, 4, 9, 11, 20], same, 3) == []


def test_gaps_in_time_end_windows(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [3 * k for k in range(26)], filters="setpts='PTS+gte(N,13)*0.3/TB'", encode=CRF0)
    found = look(path)
    info = probe(path)
    assert not info.vfr and "18 frames missing in its even rate" in info.notes[0]
    assert [window.numbers[0] for window in found.windows] == [1, 6, 14, 19]
    assert {round(float(window.rate)) for window in found.windows} == {60}


def test_motion_is_measured_in_pixels_of_the_source_per_second(tmp_path: Path) -> None:
    window = look(film(tmp_path / "a.mp4", [3 * k for k in range(12)])).windows[0]
    assert abs(float(np.median(window.speed)) - 180) < 20


def test_bits_are_counted_per_pixel(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [3 * k for k in range(15)])
    windows = look(path).windows
    total = sum(window.bits for window in windows) * 5 * WIDTH * HEIGHT
    size = 8 * path.stat().st_size
    assert 0.85 * size < total < size


def test_blocks_are_seen() -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(60, 200, (9, 9), np.uint8), (160, 160), interpolation=cv2.INTER_CUBIC)
    code = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 4])[1]
    assert blockiness(smooth) < 1.2
    assert blockiness(cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)) > 2.5


# --- both readers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.mp4", ("-c:v", "libx264", "-g", "12", "-bf", "3", "-crf", "12", "-pix_fmt", "yuv420p")),
        ("a.mkv", ("-c:v", "libx264", "-crf", "12", "-pix_fmt", "yuv444p", "-colorspace", "bt709")),
        ("a.avi", ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj422p")),
    ],
)
def test_decord_and_pyav_read_the_same(tmp_path: Path, name: str, encode: tuple[str, ...]) -> None:
    pytest.importorskip("decord")
    path = film(tmp_path / name, [2 * k for k in range(60)], encode=encode)
    info, found = probe(path), look(path)
    assert len(found.windows) >= 10
    order = [found.windows[k] for k in (0, 7, 8, 2)]  # back as well
    readers = [Reader(info, found), Reader(info, found, use_decord=False)]
    assert [reader.name for reader in readers] == ["decord", "PyAV"]
    for window in order:
        theirs, ours = (list(reader.read(window)) for reader in readers)
        assert len(theirs) == len(ours) == 5
        for a, b in zip(theirs, ours, strict=True):
            assert np.abs(a.astype(int) - b).max() <= 1


def test_the_right_frames_are_read(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", [3 * k for k in range(40)], encode=(*CRF0, "-g", "8"))
    info, found = probe(path), look(path)
    for use_decord in (True, False):
        reader = Reader(info, found, use_decord=use_decord)
        for window in (found.windows[6], found.windows[1]):
            for number, image in zip(window.numbers, reader.read(window), strict=True):
                assert np.abs(image.astype(int) - picture(3 * number, 0)).mean() < 12  # chroma is at half size


def test_without_decord_pyav_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    path = film(tmp_path / "a.mp4", [3 * k for k in range(20)])
    found = look(path)
    assert Reader(probe(path), found).name == "PyAV"


def test_where_decord_shows_other_frames_pyav_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decord = pytest.importorskip("decord")
    path = film(tmp_path / "a.mp4", [3 * k for k in range(40)], scene=[0] * 20 + [1] * 20)
    found = look(path)
    fetch = decord.VideoReader.__getitem__
    monkeypatch.setattr(decord.VideoReader, "__getitem__", lambda self, k: fetch(self, k if k < 20 else k - 20))
    reader = Reader(probe(path), found)
    assert reader.name == "decord"
    last = found.windows[-1]
    images = list(reader.read(last))
    assert reader.name == "PyAV"
    assert np.abs(images[0].astype(int) - picture(3 * last.numbers[0], 1)).mean() < 12


# --- the data set --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of different scenes, the third in a folder of its own."""
    folder = tmp_path_factory.mktemp("footage")
    (folder / "deep").mkdir()
    for scene, name in enumerate(("a.mp4", "b.mp4", "deep/c.mp4", "d.mp4")):
        film(folder / name, [3 * k for k in range(11)], scene=scene)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def whole(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path]:
    output = tmp_path_factory.mktemp("whole") / "set"
    return build([footage], output, options=SMALL), output


def test_sequences_are_what_the_manifest_says(whole: tuple[Summary, Path]) -> None:
    summary, output = whole
    clips = read_manifest(output)
    assert len(clips) == 8 == sum(summary.sequences.values())
    assert len({clip.name for clip in clips}) == 8
    for clip in clips:
        assert (clip.count, clip.width, clip.height, clip.rate, clip.licence) == (5, 128, 128, 60, "unknown")
        assert 2.5 < clip.motion < 3.5
        assert 0 < clip.sharpness < 1.6
        assert clip.crop is not None
        x, y, width, height = clip.crop
        scene = "abcd".index(Path(clip.source).stem)
        truth = picture(3 * (clip.start + 4), scene)[y : y + height, x : x + width]
        assert np.abs(clip.read(4).astype(int) - truth).mean() < 12
    assert summary.sources == {"train": 2, "val": 1, "test": 1}
    assert summary.hours["val"] == pytest.approx(10 / 60 / 3600, abs=1e-6)
    assert summary.motion["<4"] == 8
    assert "only 4 sequences to train on" in summary.notes[-1]


def test_no_source_is_parted(whole: tuple[Summary, Path]) -> None:
    clips = read_manifest(whole[1])
    splits = {source: {clip.split for clip in clips if clip.source == source} for source in {c.source for c in clips}}
    assert len(splits) == 4
    assert all(len(found) == 1 for found in splits.values())


def test_contact_sheet_and_summary_are_there(whole: tuple[Summary, Path]) -> None:
    sheet = cv2.imread(str(whole[1] / "contact.jpg"))
    assert sheet is not None
    assert sheet.shape[0] == 4 * 124
    assert '"train": 4' in (whole[1] / "summary.json").read_text()


def test_the_seed_changes_tiles_and_nothing_else_does(
    footage: Path, whole: tuple[Summary, Path], tmp_path: Path
) -> None:
    build([footage], tmp_path / "again", options=SMALL)
    assert files(tmp_path / "again") == files(whole[1])
    build([footage], tmp_path / "other", options=BuildOptions(length=5, tile=128, tiles=1, seed=1))
    crops = [[clip.crop for clip in read_manifest(folder)] for folder in (whole[1], tmp_path / "other")]
    assert crops[0] != crops[1]


@pytest.mark.parametrize("at", [1, 6])
def test_a_failed_build_goes_on_and_ends_the_same(
    footage: Path, whole: tuple[Summary, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    output, calls = tmp_path / "set", 0
    encode = module._encode

    def failing(*arguments: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 5 * at - 2:
            raise MemoryError
        return encode(*arguments)

    monkeypatch.setattr(module, "_encode", failing)
    with pytest.raises(MemoryError):
        build([footage], output, options=SMALL)
    monkeypatch.setattr(module, "_encode", encode)
    with (output / "packs" / "0000.bin").open("ab") as file:
        file.write(b"left by the failure")
    with (output / "build.jsonl").open("ab") as file:
        file.write(b'{"source": "half a li')
    seen = []
    build([footage], output, options=SMALL, on_progress=lambda now: seen.append(now.source))
    assert len(set(seen) - {""}) == 4 - (at - 1) // 2  # finished ones are not looked at again
    assert files(output) == files(whole[1])


def test_a_killed_build_goes_on_and_ends_the_same(footage: Path, whole: tuple[Summary, Path], tmp_path: Path) -> None:
    output = tmp_path / "set"
    code = (
        "import sys; from fpsgan.training.build import *; "
        "build([sys.argv[1]], sys.argv[2], options=BuildOptions(length=5, tile=128, tiles=1))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(footage), str(output)])
    journal = output / "build.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9, "it ended before it could be killed"
    assert not (output / "manifest.jsonl").exists()
    build([footage], output, options=SMALL)
    assert files(output) == files(whole[1])


def test_a_full_disk_is_one_line_and_can_be_gone_on_from(
    footage: Path, whole: tuple[Summary, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, synced = tmp_path / "set", 0
    fsync = os.fsync

    def full(number: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OutputError, match=r"No space left on device; with that mended, the same command goes on"
    ) as caught:
        build([footage], output, options=SMALL)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "fsync", fsync)
    build([footage], output, options=SMALL)
    assert files(output) == files(whole[1])


def test_packs_are_bounded(footage: Path, whole: tuple[Summary, Path], tmp_path: Path) -> None:
    one = max(clip.offsets[-1] - clip.offsets[0] for clip in read_manifest(whole[1]))
    most = 2.5 * one
    summary = build(
        [footage], tmp_path / "set", options=BuildOptions(length=5, tile=128, tiles=1, pack_size=most / 2**20)
    )
    sizes = [path.stat().st_size for path in (tmp_path / "set" / "packs").iterdir()]
    assert len(sizes) == summary.packs >= 4
    assert max(sizes) <= most
    for small, large in zip(read_manifest(tmp_path / "set"), read_manifest(whole[1]), strict=True):
        assert (small.read(2) == large.read(2)).all()
    with pytest.raises(OptionError, match=r"--pack-size 0.001.*: one sequence takes 0.1 MiB"):
        build([footage], tmp_path / "tiny", options=BuildOptions(length=5, tile=128, pack_size=0.001))


def test_lossless_frames_are_the_readers(footage: Path, tmp_path: Path) -> None:
    build([footage / "a.mp4"], tmp_path / "set", options=BuildOptions(length=5, tile=128, tiles=1, lossless=True))
    clip = read_manifest(tmp_path / "set")[0]
    info, found = probe(footage / "a.mp4"), look(footage / "a.mp4")
    assert clip.crop is not None
    x, y, width, height = clip.crop
    image = list(Reader(info, found, use_decord=False).read(found.windows[0]))[3]
    assert (clip.read(3) == image[y : y + height, x : x + width]).all()


def test_large_pictures_are_shrunk_small_ones_taken_whole(tmp_path: Path) -> None:
    encode, moving = CRF0, [3 * k for k in range(10)]
    film(tmp_path / "large.mp4", moving, filters="scale=1536:1280:flags=neighbor", encode=encode)
    film(tmp_path / "small.mp4", moving, scene=1)
    build([tmp_path], tmp_path / "set", options=BuildOptions(length=5, tile=320))
    clips = read_manifest(tmp_path / "set")
    large = [clip for clip in clips if clip.source == "large.mp4"]
    assert {(clip.width, clip.height) for clip in large} == {(320, 320)}
    widths = {clip.crop[2] for clip in large if clip.crop}
    assert len(widths) == 2  # one for each window
    assert all(320 <= width <= 320 * 1280 / 540 + 1 for width in widths)
    boxes = [clip.crop for clip in large if clip.crop and clip.start == large[0].start]
    (x0, y0, w, h), (x1, y1, *_) = boxes
    assert abs(x0 - x1) >= w or abs(y0 - y1) >= h  # two tiles, apart
    assert {(clip.width, clip.height) for clip in clips if clip.source == "small.mp4"} == {(WIDTH, HEIGHT)}


def test_native_tiles_are_the_footages_own_pixels_however_compressed(tmp_path: Path) -> None:
    coarse = ("-c:v", "mjpeg", "-qscale:v", "31", "-pix_fmt", "yuvj420p")
    film(tmp_path / "a.avi", range(0, 40, 2), encode=coarse, filters="gblur=sigma=1.5,scale=1536:1280")
    build(
        [tmp_path], tmp_path / "set", options=BuildOptions(length=5, tile=320, native=True, lossless=True, max_blur=2)
    )
    clips = read_manifest(tmp_path / "set")
    assert clips and {clip.crop[2:] for clip in clips if clip.crop} == {(320, 320)}
    clip = clips[0]
    x, y, width, height = clip.crop
    with av.open(str(tmp_path / "a.avi")) as container:
        frame = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][clip.start]
    difference = np.abs(clip.read(0).astype(int) - frame[y : y + height, x : x + width])
    assert difference.mean() < 3  # another reader's conversion to RGB


# --- what is left out ----------------------------------------------------------------------------------------


def refusal(tmp_path: Path, options: BuildOptions = SMALL) -> str:
    with pytest.raises(InputError) as caught:
        build([tmp_path], tmp_path / "set", options=options)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "set").iterdir()) == []  # nothing is left that could stand in the way of the next attempt
    return str(caught.value)


def test_low_rates_are_refused_with_the_way_out(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [3 * k for k in range(12)], rate=24)
    assert "a.mp4: 24 fps: high frame rate footage is needed (48 or more); --min-fps 24 takes it" in refusal(tmp_path)
    summary = build([tmp_path], tmp_path / "set", options=BuildOptions(length=5, tile=128, min_fps=Fraction(24)))
    assert summary.sequences["train"] == 2


def test_padded_low_rates_are_refused_too(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [3 * (k // 2) for k in range(40)])
    assert "stored at 60 fps, but its pictures change only 30 times a second" in refusal(tmp_path)


def test_static_footage_is_refused(tmp_path: Path) -> None:
    noise = "noise=alls=8:allf=t"  # else every frame would be a repeat
    film(tmp_path / "a.mp4", [0] * 20, filters=noise)
    assert "nothing moves" in refusal(tmp_path)
    film(tmp_path / "a.mp4", [0] * 20)
    assert "repeated pictures" in refusal(tmp_path)


def test_blurred_footage_is_refused(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [3 * k for k in range(20)], filters="gblur=sigma=5")
    assert "not sharp" in refusal(tmp_path)


def test_overcompressed_footage_is_refused(tmp_path: Path) -> None:
    coarse = ("-c:v", "mjpeg", "-qscale:v", "31", "-pix_fmt", "yuvj420p")
    film(tmp_path / "a.avi", range(0, 40, 2), encode=coarse, filters="gblur=sigma=1.5,scale=352:288")
    assert "compressed too much" in refusal(tmp_path)


def test_shrinking_makes_up_for_compression(footage: Path) -> None:
    window = look(footage / "a.mp4").windows[0]
    for bits, blocks, scale, too_much in ((0.01, 1, 1, True), (0.01, 1, 0.5, False), (0.1, 2.5, 1, True),
                                          (0.1, 2.5, 0.5, False), (0, 1, 1, False)):  # fmt: skip
        assert module._compressed(dataclasses.replace(window, bits=bits, blocks=blocks), scale) is too_much


def test_tiny_pictures_are_refused(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [3 * k for k in range(12)], filters="scale=96:96")
    assert "96×96: at least 128 px" in refusal(tmp_path)


def test_unreadable_files_and_twins_are_left_out_by_name(footage: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, content in (("a.mp4", "a.mp4"), ("b.mp4", "b.mp4"), ("c.mp4", "a.mp4")):
        (source / name).write_bytes((footage / content).read_bytes())
    (source / "junk.mp4").write_bytes(b"no video" * 100)
    (source / "notes.txt").write_text("no video either")
    cut = (footage / "d.mp4").read_bytes()
    (source / "torn.mp4").write_bytes(cut[: len(cut) // 2])
    notes: list[str] = []
    summary = build([source], tmp_path / "set", options=SMALL, on_note=notes.append)
    assert summary.unreadable == ("junk.mp4", "torn.mp4")
    assert summary.refused["c.mp4"] == "c.mp4: the same file as a.mp4"
    assert [note.split(":")[0] for note in notes] == ["c.mp4", "junk.mp4", "torn.mp4"]
    assert {clip.source for clip in read_manifest(tmp_path / "set")} == {"a.mp4", "b.mp4"}
    assert all(str(source) not in note for note in notes)


def test_a_damaged_place_costs_no_more_than_its_surroundings(tmp_path: Path) -> None:
    path = film(tmp_path / "a.ts", [3 * k for k in range(60)], encode=(*CRF0, "-g", "5"))
    code = bytearray(path.read_bytes())
    half = len(code) // 2 // 188 * 188
    code[half : half + 188 * 20] = b"\0" * (188 * 20)
    path.write_bytes(code)
    notes: list[str] = []
    build([path], tmp_path / "set", options=SMALL, on_note=notes.append)
    assert len(read_manifest(tmp_path / "set")) >= 6
    assert "damaged places left out" in notes[0]


def test_other_encodings_of_a_scene_stay_together(footage: Path, tmp_path: Path) -> None:
    film(tmp_path / "again.mp4", [3 * k for k in range(11)], encode=(*CRF0[:-4], "-crf", "20", "-pix_fmt", "yuv420p"))
    film(tmp_path / "alone.mp4", [3 * k for k in range(11)], scene=7)
    summary = build([tmp_path, footage / "a.mp4"], tmp_path / "set", options=SMALL)
    clips = read_manifest(tmp_path / "set")
    assert len({clip.split for clip in clips if "alone" not in clip.source}) == 1
    assert summary.sources == {"train": 2, "val": 1, "test": 0}
    assert any("show the same: kept in one split" in note for note in summary.notes)


def entries(count: int) -> list[list[module._Source]]:
    clip = Clip("a", "a", "train", 1, 8, 8, frames=("a",))
    return [[module._Source(f"{k}", f"digest {k}", clips=[clip] * (1 + (k == 3)))] for k in range(count)]


@pytest.mark.parametrize(
    ("sources", "val", "test", "expected"),
    [
        (1, 0.1, 0.1, (1, 0, 0)),
        (2, 0.1, 0.1, (1, 1, 0)),
        (3, 0.1, 0.1, (1, 1, 1)),
        (4, 0.0, 0.1, (3, 0, 1)),
        (100, 0.1, 0.05, (85, 10, 5)),
        (10, 0.0, 0.0, (10, 0, 0)),
    ],
)
def test_split_shares(sources: int, val: float, test: float, expected: tuple[int, int, int]) -> None:
    splits = module._split(entries(sources), BuildOptions(val=val, test=test))
    assert tuple(sum(split == name for split in splits.values()) for name in ("train", "val", "test")) == expected
    assert sources <= 3 or splits["3"] == "train"  # the largest
    other = module._split(entries(sources), BuildOptions(val=val, test=test, seed=1))
    assert sources < 100 or other != splits


def test_a_single_source_comes_with_advice(footage: Path, tmp_path: Path) -> None:
    summary = build([footage / "a.mp4"], tmp_path / "set", options=SMALL)
    assert summary.sources == {"train": 1, "val": 0, "test": 0}
    assert "nothing to validate on" in summary.notes[0]


def test_per_source_spreads_over_the_film(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", [3 * k for k in range(60)])
    build([tmp_path], tmp_path / "set", options=BuildOptions(length=5, tile=128, tiles=1, per_source=3))
    starts = [clip.start for clip in read_manifest(tmp_path / "set")]
    assert len(starts) == 3
    assert starts[0] == 0
    assert starts[-1] == 55


# --- licences, options, folders ------------------------------------------------------------------------------


def test_licences_come_from_the_table_above_or_the_option(footage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "footage" / "train"
    folder.mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes((footage / name).read_bytes())
    table = tmp_path / "footage" / "SOURCES.tsv"
    table.write_text("file\tlicence\twhat\ntrain/a.mp4\tCC-BY 4.0 Jo Bloggs\tstreet\n")
    build([folder], tmp_path / "set", options=BuildOptions(length=5, tile=128, licence="own"))
    assert {(clip.source, clip.licence) for clip in read_manifest(tmp_path / "set")} == {
        ("a.mp4", "CC-BY 4.0 Jo Bloggs"),
        ("b.mp4", "own"),
    }
    table.write_text("file;licence\na.mp4;CC0\n")
    with pytest.raises(InputError, match=r"SOURCES.tsv: needs the columns file and licence"):
        build([folder], tmp_path / "other", options=SMALL)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 2}, "--length 2: must be 3 frames or more"),
        ({"tile": 64}, "--tile 64: must be 128 px or more"),
        ({"val": 0.6, "test": 0.5}, "--val and --test 1.1: must be together below 1"),
        ({"pack_size": 0}, "--pack-size 0: must be above 0 MiB"),
        ({"max_blur": 3}, "--max-blur 3"),
    ],
)
def test_senseless_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        BuildOptions(**given)


def test_a_begun_build_wants_its_own_options_and_footage(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "set"
    monkeypatch.setattr(module, "_finish", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build([footage], output, options=SMALL)
    monkeypatch.undo()
    with pytest.raises(OptionError, match="was begun with --tile 128, not 160; go on with that, or -y to begin again"):
        build([footage], output, options=BuildOptions(length=5, tile=160, tiles=1))
    with pytest.raises(InputError, match=r"deep/c.mp4: has come, gone or changed"):
        build([footage / f"{name}.mp4" for name in "abd"], output, options=SMALL)
    summary = build([footage], output, options=BuildOptions(length=5, tile=160, tiles=1), overwrite=True)
    assert summary.sequences["train"] > 0
    with pytest.raises(OutputError, match="holds a finished data set; -y builds it again"):
        build([footage], output, options=SMALL)


def test_a_folder_with_other_things_is_left_alone(footage: Path, tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds other things"):
            build([footage], tmp_path, options=SMALL, overwrite=overwrite)
    assert files(tmp_path) == {"diary.txt": b"dear"}
    with pytest.raises(OutputError, match="is a file"):
        build([footage], tmp_path / "diary.txt", options=SMALL)


def test_a_shortened_pack_is_noticed(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_finish", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build([footage], tmp_path / "set", options=SMALL)
    monkeypatch.undo()
    (tmp_path / "set" / "packs" / "0000.bin").write_bytes(b"short")
    with pytest.raises(OutputError, match="5 are there"):
        build([footage], tmp_path / "set", options=SMALL)


def test_places_without_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_videos([tmp_path / "none"])
    with pytest.raises(InputError, match="no video in there"):
        find_videos([tmp_path])


def test_progress_goes_from_nothing_to_all(footage: Path, tmp_path: Path) -> None:
    seen: list[module.Progress] = []
    build([footage], tmp_path / "set", options=SMALL, on_progress=seen.append)
    shares = [now.done for now in seen]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert seen[-1].sequences == 8
    assert {now.stage for now in seen} == {"look", "cut", "done"}


def test_command_line(footage: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.mp4").write_bytes((footage / "a.mp4").read_bytes())
    words = ["dataset", "build", str(source), "-o", str(tmp_path / "set"), "--length", "5", "--tile", "128"]
    done = CliRunner().invoke(app, [*words, "--min-fps", "59.94"])
    assert done.exit_code == 0, done.output
    assert "nothing to validate on" in done.output
    (source / "junk.mov").write_bytes(b"junk")
    done = CliRunner().invoke(app, [*words, "-y"])
    assert done.exit_code == 3
    assert "1 of them unreadable" in done.output


def test_nothing_is_printed(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "print", lambda *words, **how: pytest.fail("the library printed"))
    build([footage / "a.mp4"], tmp_path / "set", options=SMALL)
