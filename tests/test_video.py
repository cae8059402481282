"""Probe, decode and encode, on real files made by ffmpeg."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import MakeClip, ffmpeg, raw_planes, video_times, written

from fpsgan.errors import InputError, OptionError, OutputError, SetupError
from fpsgan.video import encode as encode_module
from fpsgan.video import plan as plan_module
from fpsgan.video.codecs import CONTAINERS, EncodeOptions
from fpsgan.video.decode import decode
from fpsgan.video.encode import Encoder
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.files import check_target
from fpsgan.video.frame import MATRICES, PRIMARIES, TRANSFERS, Color, from_rgb
from fpsgan.video.mux import mux
from fpsgan.video.plan import plan_output
from fpsgan.video.probe import probe

LOSSLESS = ("-c:v", "ffv1")


def test_constant_rate_comes_back_exact_from_millisecond_containers(make_clip: MakeClip) -> None:
    info = probe(make_clip("a.mkv", rate="24000/1001", seconds=2))
    assert (info.frame_rate, info.vfr, info.frame_count) == (Fraction(24000, 1001), False, 48)
    times = [frame.pts for frame in decode(info)]
    assert times == [info.start - info.origin + Fraction(k * 1001, 24000) for k in range(48)]


def test_variable_rate_is_seen_and_kept(make_clip: MakeClip) -> None:
    clip = make_clip("v.mp4", rate="30", filters="settb=1/90000,setpts='(N+0.4*sin(N))/30/TB'",
                     encode=("-c:v", "libx264", "-fps_mode", "passthrough", "-enc_time_base", "1:90000"))  # fmt: skip
    info = probe(clip)
    assert info.vfr and info.frame_count == 30
    assert abs(info.frame_rate - 30) < 1
    expected = [(k + 0.4 * np.sin(k)) / 30 for k in range(30)]
    assert np.allclose([float(f.pts) for f in decode(info)], expected, atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_orientation_is_baked_in(make_clip: MakeClip, tmp_path: Path, degrees: int, mirrored: bool) -> None:
    upright = make_clip("u.mp4", seconds=0.25, sound=False, filters="setsar=4/3")
    turned = tmp_path / "r.mp4"
    words = [*(["-display_rotation", str(degrees)] if degrees else []), *(["-display_hflip"] if mirrored else [])]
    ffmpeg(*words, "-i", str(upright), "-c", "copy", str(turned))
    info = probe(turned)
    plain = list(decode(probe(upright)))
    frames = list(decode(info))
    expected = np.rot90(plain[0].planes[0], degrees // 90)
    assert np.array_equal(frames[0].planes[0], np.fliplr(expected) if mirrored else expected)
    assert (info.rotation, info.mirrored) == (degrees, mirrored)
    assert (info.width, info.height) == expected.shape[::-1]
    assert info.sar == (Fraction(3, 4) if degrees in (90, 270) else Fraction(4, 3))
    assert (frames[0].format, frames[0].color) == (info.format, info.color)


def test_shape_of_pixels_survives(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("s.mp4", seconds=0.25, filters="setsar=4/3"))
    assert info.sar == Fraction(4, 3)
    target = tmp_path / "t.mp4"
    with written(info, target, EncodeOptions(), rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(frame)
    assert probe(target).sar == Fraction(4, 3)


def test_cover_art_and_data_are_no_video(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("m.mp4", seconds=0.25)
    cover = tmp_path / "cover.png"
    cv2.imwrite(str(cover), np.zeros((32, 32, 3), np.uint8))
    song = tmp_path / "song.m4a"
    ffmpeg("-i", str(clip), "-i", str(cover), "-map", "1", "-map", "0:a", "-c:a", "copy", "-c:v", "png",
           "-disposition:v", "attached_pic", "-f", "mp4", str(song))  # fmt: skip
    with pytest.raises(InputError, match="no video stream"):
        probe(song)
    both = tmp_path / "both.mp4"
    ffmpeg("-i", str(cover), "-i", str(clip), "-map", "0", "-map", "1", "-c", "copy", "-c:v:0", "png",
           "-disposition:v:0", "attached_pic", "-disposition:v:1", "default", str(both))  # fmt: skip
    assert probe(both).codec == "h264"


def test_gif_and_folder_of_images(make_clip: MakeClip, tmp_path: Path) -> None:
    gif = make_clip("g.gif", rate="10", sound=False, encode=())
    assert [f.pts for f in decode(probe(gif))] == [Fraction(k, 10) for k in range(10)]
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(1, 12):
        cv2.imwrite(str(folder / f"shot{k}.png"), np.full((32, 48, 3), 10 * k, np.uint8))
    info = probe(folder, image_rate=Fraction(12))
    frames = list(decode(info))
    assert [f.pts for f in frames] == [Fraction(k, 12) for k in range(11)]
    assert [int(f.planes[0][0, 0]) for f in frames] == [10 * k for k in range(1, 12)]  # 2 before 10


def test_animated_webp_keeps_its_times_and_its_transparency(make_clip: MakeClip) -> None:
    webp = make_clip("w.webp", rate="10", sound=False, filters="format=yuva420p", encode=("-c:v", "libwebp_anim"))
    info = probe(webp)
    assert (info.frame_rate, info.vfr, info.format.name) == (10, False, "gbrap")
    assert [f.pts for f in decode(info)] == [Fraction(k, 10) for k in range(10)]


def test_trim_keeps_frames_between_the_times(make_clip: MakeClip) -> None:
    info = probe(make_clip(seconds=3))
    times = [f.pts for f in decode(info, start=Fraction(1), end=Fraction(2))]
    assert times == [Fraction(k, 24) for k in range(24, 48)]


@pytest.mark.parametrize(("content", "what"), [(b"", "not a video"), (b"hello, I am text\n" * 50, "not a video")])
def test_what_is_no_video_is_said_in_one_line(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        probe(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_and_sound_only(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        probe(tmp_path / "nothing.mp4")
    sound = tmp_path / "s.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.2", str(sound))
    with pytest.raises(InputError, match="no video stream"):
        probe(sound)


def test_damage_stops_or_is_bridged(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("d.ts", seconds=3, video="testsrc2=s=320x240", encode=("-c:v", "libx264", "-g", "12"))
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data)
    info = probe(broken)
    with pytest.raises(InputError, match=r"damaged.* at \d+\.\d+ s.*--on-error conceal"):
        list(decode(info))
    said: list[str] = []
    frames = list(decode(info, conceal=True, report=said.append))
    assert said and len(frames) > 50


def test_a_file_cut_short_is_noticed(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mp4", seconds=4, encode=("-c:v", "libx264", "-g", "12", "-movflags", "+faststart"))
    short = tmp_path / "short.mp4"
    short.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match=r"cut short|damaged|cannot be read"):
        list(decode(probe(short)))
    assert 10 < len(list(decode(probe(short), conceal=True, report=lambda _: None))) < 96


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"])
def test_untouched_frames_are_bit_exact(make_clip: MakeClip, tmp_path: Path, pixels: str) -> None:
    clip = make_clip("in.mkv", seconds=0.5, sound=False, encode=(*LOSSLESS, "-pix_fmt", pixels))
    info = probe(clip)
    target = tmp_path / "out.mkv"
    with written(info, target, EncodeOptions("ffv1"), rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(frame)
    assert probe(target).format.name == pixels
    for before, after in zip(raw_planes(clip), raw_planes(target), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_colour_tags_and_values_are_the_same_after(
    make_clip: MakeClip, tmp_path: Path, matrix: str, full: bool, suffix: str
) -> None:
    primaries = {"bt709": "bt709", "smpte170m": "smpte170m", "bt2020nc": "bt2020"}[matrix]
    transfer = {"bt709": "bt709", "smpte170m": "smpte170m", "bt2020nc": "bt2020-10"}[matrix]
    tags = (
        f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range={'pc' if full else 'tv'}"
    )
    clip = make_clip("in.mkv", seconds=0.25, sound=False, filters=f"format=yuv420p,{tags}")
    info = probe(clip)
    assert (info.color.matrix, info.color.primaries, info.color.transfer) == (matrix, primaries, transfer)
    assert info.color.full_range == full
    target = tmp_path / f"out{suffix}"
    with written(info, target, EncodeOptions(quality=1), rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(dataclasses.replace(frame, rgb=frame.as_rgb()))  # through the networks' conversion
    assert probe(target).color == info.color
    for before, after in zip(decode(info), decode(probe(target)), strict=True):
        for a, b in zip(before.planes, after.planes, strict=True):
            assert abs(np.mean(a.astype(float) - b)) < 0.3  # what H.264 does to it; the conversion is exact


def test_rgb_sources_become_tagged_video(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 200
    cv2.imwrite(str(folder / "1.png"), red)
    info = probe(folder)
    target = tmp_path / "out.mp4"
    with written(info, target, EncodeOptions(quality=1), rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(frame)
    after = probe(target)
    assert after.format.name == "yuv420p" and after.color.matrix == "bt709"
    rgb = next(iter(decode(after))).as_rgb() * 255
    assert np.abs(rgb - [200, 0, 0]).max() < 2


@pytest.mark.parametrize(("name", "options"), [
    ("o.mp4", EncodeOptions("hevc")), ("o.mov", EncodeOptions("prores")), ("o.mkv", EncodeOptions("av1")),
    ("o.webm", EncodeOptions()), ("o.gif", EncodeOptions()), ("o.webp", EncodeOptions()), ("folder", EncodeOptions()),
    ("o.avi", EncodeOptions()), ("o.ts", EncodeOptions()), ("o.mkv", EncodeOptions("h264", pix_fmt="yuv444p")),
])  # fmt: skip
def test_every_kind_of_output(make_clip: MakeClip, tmp_path: Path, name: str, options: EncodeOptions) -> None:
    info = probe(make_clip("in.mp4", rate="20", seconds=0.5))
    target = tmp_path / name
    with written(info, target, options, rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.mp4", name])  # nothing else is left
    if target.is_dir():
        assert [path.name for path in sorted(target.glob("*.png"))] == [f"{k:06}.png" for k in range(1, 11)]
    elif target.suffix == ".webp":
        assert cv2.imcount(str(target)) == 10
    else:
        assert len(video_times(target)) == 10
        with av.open(str(target)) as container:
            assert len(container.streams.audio) == len(encoder.plan.streams) == (0 if name == "o.gif" else 1)


def test_odd_sizes_are_completed_to_even(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("odd.mkv", seconds=0.25, filters="format=yuv444p,pad=97:65", sound=False, encode=LOSSLESS))
    plan = plan_output(info, tmp_path / "o.mp4", EncodeOptions(pix_fmt="yuv420p"), tmp_path, rate=info.frame_rate)
    assert (plan.width, plan.height) == (98, 66) and any("even" in note for note in plan.notes)


def test_impossible_outputs_are_refused_before_work(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(seconds=0.25)
    info, kinds = probe(clip), tuple(CONTAINERS)
    with pytest.raises(OutputError, match="is the input itself"):
        check_target(clip, clip, overwrite=True, suffixes=kinds)
    with pytest.raises(OutputError, match="-y"):
        existing = tmp_path / "there.mp4"
        existing.write_bytes(b"precious")
        check_target(clip, existing, overwrite=False, suffixes=kinds)
    with pytest.raises(OutputError, match="no folder"):
        check_target(clip, tmp_path / "no" / "out.mp4", overwrite=False, suffixes=kinds)
    with pytest.raises(OutputError, match="unknown kind"):
        check_target(clip, tmp_path / "out.xyz", overwrite=False, suffixes=kinds)
    with pytest.raises(OptionError, match="unknown; known are"):
        plan_output(info, tmp_path / "o.mp4", EncodeOptions("divx"), tmp_path, rate=info.frame_rate)
    with pytest.raises(OptionError, match="--pix-fmt"):
        plan_output(info, tmp_path / "o.mp4", EncodeOptions(pix_fmt="rgb8"), tmp_path, rate=info.frame_rate)
    with pytest.raises(OptionError, match="GIF"):
        plan_output(info, tmp_path / "o.gif", EncodeOptions(), tmp_path, rate=Fraction(60))
    with pytest.raises(OutputError, match=r"vp9|webm|ffmpeg could not"):
        plan_output(info, tmp_path / "o.webm", EncodeOptions("h264"), tmp_path, rate=info.frame_rate)


def test_an_encoder_this_build_lacks_is_named(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(make_clip(seconds=0.25))
    monkeypatch.setattr(plan_module, "encoders", lambda: frozenset({"ffv1"}))
    with pytest.raises(SetupError, match=r"has no libx264; choose another --codec"):
        plan_output(info, tmp_path / "o.mp4", EncodeOptions(), tmp_path, rate=info.frame_rate)


def test_a_full_disk_leaves_nothing_behind(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")  # only Linux can pretend
    info = probe(make_clip(seconds=0.25, video="testsrc2=s=320x240"))
    plan = plan_output(info, tmp_path / "o.mkv", EncodeOptions("ffv1"), tmp_path, rate=info.frame_rate)
    own = encode_module._command
    monkeypatch.setattr(encode_module, "_command", lambda plan, part, number: own(plan, Path("/dev/full"), number))
    with (
        pytest.raises(OutputError, match=r"disk is full|could not write"),
        Encoder(plan, tmp_path / "all.nut") as encoder,
    ):
        for frame in decode(info):
            encoder.write(frame)
    assert not plan.target.exists()


def test_subtitles_chapters_and_metadata_come_along(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(seconds=2)
    (tmp_path / "s.srt").write_text("1\n00:00:00,200 --> 00:00:01,000\nHello\n")
    (tmp_path / "m.txt").write_text(
        ";FFMETADATA1\ntitle=My clip\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=One\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=Two\n"
    )
    full = tmp_path / "full.mkv"
    ffmpeg("-i", str(clip), "-i", str(tmp_path / "s.srt"), "-i", str(tmp_path / "m.txt"), "-map", "0", "-map", "1",
           "-map_metadata", "2", "-map_chapters", "2", "-c", "copy", "-c:s", "srt",
           "-metadata:s:a:0", "language=fra", str(full))  # fmt: skip
    info = probe(full)
    for suffix, subtitle in ((".mkv", "srt"), (".mp4", "mov_text")):
        target = tmp_path / f"o{suffix}"
        with written(info, target, EncodeOptions(), rate=info.frame_rate) as encoder:
            for frame in decode(info):
                encoder.write(frame)
        with av.open(str(target)) as container:
            assert container.metadata["title"] == "My clip"
            assert [c["metadata"]["title"] for c in container.chapters()] == ["One", "Two"]
            assert container.streams.subtitles[0].codec_context.name == subtitle
            assert container.streams.audio[0].metadata["language"] == "fra"


def test_ffmpeg_dying_midway_is_an_error(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(seconds=0.5, video="testsrc2=s=640x480"))
    plan = plan_output(info, tmp_path / "o.mp4", EncodeOptions(), tmp_path, rate=info.frame_rate)
    frames = list(decode(info))
    with pytest.raises(OutputError, match="ffmpeg could not write"), Encoder(plan, tmp_path / "all.nut") as encoder:
        encoder.write(frames[0])
        encoder._pipe._process.kill()
        encoder._pipe._process.wait()
        for k in range(40):
            encoder.write(dataclasses.replace(frames[0], pts=Fraction(k + 1, 24)))
    assert not plan.target.exists()


def test_generated_pictures_do_not_flicker_against_originals(make_clip: MakeClip) -> None:
    """Every other frame through RGB and back: the mean of each plane stays, on real-looking content."""
    info = probe(make_clip(seconds=0.5, sound=False, video="gradients=s=128x96", filters="noise=alls=9:allf=t"))
    for frame in decode(info):
        again = from_rgb(frame.as_rgb(), frame.format, frame.color)
        for before, after in zip(frame.planes, again, strict=True):
            error = after.astype(float) - before
            assert abs(error.mean()) < 0.05
            assert 10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)) >= 55


def test_no_picture_at_all(tmp_path: Path, make_clip: MakeClip) -> None:
    clip = make_clip(seconds=0.25)
    info = probe(clip)
    plan = plan_output(info, tmp_path / "o.mp4", EncodeOptions(), tmp_path, rate=info.frame_rate)
    with pytest.raises(OutputError, match="gave no frame"), Encoder(plan, tmp_path / "all.nut"):
        pass
    assert list(tmp_path.glob(".*partial")) == []


def test_missing_ffmpeg_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fpsgan.video import ffmpeg as module

    def none() -> str:
        raise RuntimeError("no ffmpeg exe could be found")

    monkeypatch.setenv("PATH", str(tmp_path))
    module.ffmpeg_path.cache_clear()
    monkeypatch.setattr(module.imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(SetupError, match="put one on PATH"):
        module.ffmpeg_path()
    module.ffmpeg_path.cache_clear()


def test_pictures_of_another_size_are_fitted_into_the_first(make_clip: MakeClip, tmp_path: Path) -> None:
    small, wide = (
        make_clip("a.h264", seconds=0.5, sound=False),
        make_clip("b.h264", seconds=0.5, sound=False, video="color=white:s=192x64"),
    )
    joined = tmp_path / "j.h264"
    joined.write_bytes(small.read_bytes() + wide.read_bytes())
    said: list[str] = []
    frames = list(decode(probe(joined), report=said.append))
    assert len(frames) == 24 and {(frame.width, frame.height) for frame in frames} == {(96, 64)}
    assert said == ["the picture changes size at 0.480 s, from 96×64 to 192×64: fitted into 96×64"]
    luma = frames[-1].planes[0]  # black bars keep its shape
    assert luma[:14].max() < 40 and luma[-14:].max() < 40 and luma[20:44].min() > 200


def test_an_old_ffmpeg_on_path_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fpsgan.video import ffmpeg as module

    old = tmp_path / "ffmpeg"
    old.write_text("#!/bin/sh\necho ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright\n")
    old.chmod(0o755)
    assert module._version_of(str(old)) == (4, 4)
    monkeypatch.setenv("PATH", str(tmp_path))
    module.ffmpeg_path.cache_clear()
    assert module.ffmpeg_path() != str(old)
    module.ffmpeg_path.cache_clear()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_photo_in_a_photo_out(tmp_path: Path, suffix: str) -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), (0, 0), 3)
    cv2.imwrite(str(tmp_path / "in.png"), picture)
    info = probe(tmp_path / "in.png")
    target = tmp_path / f"out{suffix}"
    with written(info, target, EncodeOptions(), rate=None) as encoder:
        for frame in decode(info):
            encoder.write(frame)
    assert np.abs(cv2.imread(str(target)).astype(int) - picture).mean() < (2 if suffix == ".jpg" else 1e-9)


def test_many_frames_do_not_fit_one_image(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(seconds=0.25))
    with pytest.raises(OutputError, match="one image cannot hold 6 frames"):
        plan_output(info, tmp_path / "o.png", EncodeOptions(), tmp_path, rate=None)


def test_hdr10_keeps_its_metadata_and_siting(make_clip: MakeClip, tmp_path: Path) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    parameters = (
        "log-level=error:chromaloc=2:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:"
        f"master-display={display}:max-cll=1000,400"
    )
    clip = make_clip("h.mp4", seconds=0.25, sound=False,
                     encode=("-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", parameters))  # fmt: skip
    info = probe(clip)
    assert info.color.hdr and info.siting == "topleft"
    assert info.mastering == f"master-display={display}:max-cll=1000,400"
    target = tmp_path / "o.mp4"
    with written(info, target, EncodeOptions(), rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(dataclasses.replace(frame, rgb=frame.as_rgb()))
    after = probe(target)
    assert (after.color, after.mastering, after.format) == (info.color, info.mastering, info.format)
    with pytest.raises(OptionError, match="HDR video needs 10 bits"):
        plan_output(info, tmp_path / "o.webm", EncodeOptions("vp9", pix_fmt="yuv420p"), tmp_path, rate=info.frame_rate)


def test_names_that_look_like_something_else(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip("clip.mp4", seconds=0.25).rename(tmp_path / "12:30 -y 'ü'.mp4")
    monkeypatch.chdir(tmp_path)
    info = probe("12:30 -y 'ü'.mp4")
    with written(info, Path("-o:ut.mp4"), EncodeOptions(), rate=info.frame_rate) as encoder:
        for frame in decode(info):
            encoder.write(frame)
    assert len(video_times(tmp_path / "-o:ut.mp4")) == 6


@pytest.mark.parametrize(("name", "codec"), [("o.mp4", "h264"), ("o.mkv", "h264"), ("o.mov", "hevc"), ("o.mkv", "av1")])
def test_every_code_point_comes_out_as_it_went_in(make_clip: MakeClip, tmp_path: Path, name: str, codec: str) -> None:
    """All of H.273's matrices, primaries and transfers, read back as numbers and not with our own tables."""
    info = probe(make_clip("in.mkv", seconds=0.1, sound=False, encode=(*LOSSLESS, "-pix_fmt", "yuv420p")))
    frames = list(decode(info))
    plan = plan_output(info, tmp_path / name, EncodeOptions(codec), tmp_path, rate=info.frame_rate)
    matrices = {k: v for k, v in MATRICES.items() if k != 0 or codec != "av1"}  # which refuses to call 4:2:0 RGB
    points = zip_longest(matrices, PRIMARIES, TRANSFERS, fillvalue=2)
    for number, (matrix, primaries, transfer) in enumerate(points):
        color = Color(MATRICES[matrix], PRIMARIES[primaries], TRANSFERS[transfer], full_range=number % 2 == 1)
        colored = dataclasses.replace(plan, color=color)
        with Encoder(colored, tmp_path / "all.nut") as encoder:
            for frame in frames:
                encoder.write(dataclasses.replace(frame, color=color))
        part = mux(colored, [encoder.path], tmp_path).part
        with av.open(str(part)) as container:
            found = next(container.decode(video=0))
        written = (found.colorspace, found.color_primaries, found.color_trc, found.color_range)
        assert tuple(map(int, written)) == (matrix, primaries, transfer, 1 + number % 2)
        assert probe(part).color == color


def test_the_tables_have_every_code_point_that_ffmpeg_names() -> None:
    """What ffmpeg calls by a name in its own list has one here, and the other way round (256 and more are no H.273)."""
    said = subprocess.run([ffmpeg_path(), "-hide_banner", "-h", "filter=setparams"], capture_output=True, text=True)
    for option, table in (("colorspace", MATRICES), ("color_primaries", PRIMARIES), ("color_trc", TRANSFERS)):
        listed = re.search(rf"^   {option} .*\n((?:     .*\n)+)", said.stdout, re.MULTILINE)
        assert listed is not None
        numbers = {int(number) for number in re.findall(r"^     \S+ +(\d+) ", listed[1], re.MULTILINE)}
        assert numbers - {256} <= set(table)
