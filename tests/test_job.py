"""The whole job on real files: counts, durations, sound, bit-exactness, cuts, and how it fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from conftest import MakeClip, audio_packets, audio_start, ffmpeg, raw_planes, video_times

from fpsgan.errors import InputError, OptionError, OutputError
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.job import Progress, Result, enhance, estimate
from fpsgan.options import Options
from fpsgan.stages.interpolation import InterpolationSettings, Spent, interpolated
from fpsgan.stages.timeline import Relation, Span, schedule
from fpsgan.video.codecs import EncodeOptions
from fpsgan.video.decode import decode
from fpsgan.video.frame import Color, Frame, PixelFormat
from fpsgan.video.probe import probe

OFF = {"deblur": "off"}
LOSSLESS = ("-c:v", "ffv1")


def rate(text: str) -> Fraction:
    return Fraction(text)


@pytest.mark.parametrize(
    ("rate_in", "options", "rate_out"),
    [
        ("24", {"fps": rate("60")}, "60"),
        ("30", {"fps": rate("60")}, "60"),
        ("24000/1001", {"fps": rate("60000/1001")}, "60000/1001"),
        ("25", {"fps": rate("50")}, "50"),
        ("30", {"slowmo": rate("4")}, "30"),
        ("60", {"fps": rate("24")}, "24"),
        ("24", {"multi": rate("3")}, "72"),
        ("25", {}, "50"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_count_duration_and_sound(
    make_clip: MakeClip, tmp_path: Path, blend: list[float], rate_in: str, options: dict, rate_out: str, suffix: str
) -> None:
    clip = make_clip("in.mkv" if suffix == ".mkv" else "in.mp4", rate=rate_in, seconds=2)
    target = tmp_path / f"out{suffix}"
    result = enhance(clip, target, options=Options(**OFF, **options))
    fps, source = rate(rate_out), probe(clip)
    slowmo = options.get("slowmo", 1)
    times = video_times(target)
    assert len(times) == result.frames_out
    duration = len(times) / fps
    assert abs(duration - source.duration * slowmo) <= 1 / fps / 2
    assert probe(target).frame_rate == fps  # every frame at its exact place (mkv: to its millisecond)
    if slowmo == 1:
        offset_in = source.start - audio_start(clip)
        assert abs((times[0] - audio_start(target)) - offset_in) < Fraction(1, 1000)
        assert audio_packets(target) == audio_packets(clip)
    else:
        with av.open(str(clip)) as before, av.open(str(target)) as after:
            heard = next(before.decode(audio=0)).time
            sound = list(after.decode(audio=0))
        assert abs(float(times[0]) - sound[0].time - (float(source.start) - heard) * slowmo) < 0.001
        assert abs(sum(frame.samples / frame.sample_rate for frame in sound) - 2 * slowmo) < 0.1


def test_variable_rate_to_60(make_clip: MakeClip, tmp_path: Path, blend: list[float]) -> None:
    clip = make_clip(
        "v.mp4",
        rate="30",
        seconds=2,
        filters="settb=1/90000,setpts='(N+0.4*sin(N))/30/TB'",
        encode=("-c:v", "libx264", "-fps_mode", "passthrough", "-enc_time_base", "1:90000"),
    )
    source = [frame.pts for frame in decode(probe(clip))]
    result = enhance(clip, tmp_path / "o.mp4", options=Options(**OFF, fps=Fraction(60)))
    times = video_times(tmp_path / "o.mp4")
    assert abs(len(times) / Fraction(60) - probe(clip).duration) <= Fraction(1, 120)
    assert all(after - before == Fraction(1, 60) for before, after in itertools.pairwise(times))
    assert audio_packets(tmp_path / "o.mp4") == audio_packets(clip)
    assert result.av_offset_out == pytest.approx(result.av_offset_in, abs=1e-3)
    # t is measured on the source's own times
    expected = []
    for k in range(len(times)):
        at = source[0] + Fraction(k, 60)
        before = max(i for i, pts in enumerate(source) if pts <= at)
        if source[before] != at and before + 1 < len(source):
            expected.append(float((at - source[before]) / (source[before + 1] - source[before])))
    assert blend == pytest.approx(expected)


def test_a_video_that_starts_late_still_meets_its_sound(
    make_clip: MakeClip, tmp_path: Path, blend: list[float]
) -> None:
    early = make_clip("e.mp4", rate="24", seconds=1)
    late = tmp_path / "late.mp4"
    ffmpeg(
        "-itsoffset", "0.3", "-i", str(early), "-i", str(early), "-map", "0:v", "-map", "1:a", "-c", "copy", str(late)
    )
    for name in ("o.mp4", "o.mkv"):
        enhance(late, tmp_path / name, options=Options(**OFF, fps=Fraction(60)))
        offset = video_times(tmp_path / name)[0] - audio_start(tmp_path / name)
        assert abs(offset - (probe(late).start - audio_start(late))) < Fraction(1, 1000)
        assert audio_packets(tmp_path / name) == audio_packets(late)


def test_a_frame_that_outlasts_the_end_is_shortened(make_clip: MakeClip, tmp_path: Path, blend: list[float]) -> None:
    clip = make_clip(
        "gap.mp4",
        rate="10",
        seconds=1,
        filters="settb=1/90000,setpts='(N+20*gte(N,5))/10/TB'",
        encode=("-c:v", "libx264", "-fps_mode", "passthrough", "-enc_time_base", "1:90000"),
    )
    result = enhance(clip, tmp_path / "o.mp4", options=Options(**OFF, fps=Fraction(30), end=Fraction(3, 2)))
    assert (result.frames_in, result.frames_out) == (5, 45)


def test_opus_in_matroska_is_not_shifted(make_clip: MakeClip, tmp_path: Path, blend: list[float]) -> None:
    """ffmpeg's own remux of such a file puts the picture 7 ms late; old ones cannot be kept from it, and we say so."""
    aac, clip = make_clip("aac.mp4", seconds=1), tmp_path / "opus.mkv"
    ffmpeg("-i", str(aac), "-c:v", "copy", "-c:a", "libopus", str(clip))
    for name in ("o.mkv", "o.webm"):
        result = enhance(clip, tmp_path / name, options=Options(**OFF))
        if not any("the sound lies" in note for note in result.notes):
            assert result.av_offset_out == pytest.approx(result.av_offset_in, abs=1.01e-3)  # Matroska counts in ms
        assert result.av_offset_out == pytest.approx(result.av_offset_in, abs=7.1e-3)
        assert audio_packets(tmp_path / name) == audio_packets(clip)


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv"])
def test_trimmed_sound_stays_in_step(make_clip: MakeClip, tmp_path: Path, blend: list[float], name: str) -> None:
    clip = make_clip("long.mp4", rate="24", seconds=4)
    options = Options(**OFF, fps=Fraction(48), start=Fraction(3, 2), end=Fraction(5, 2))
    result = enhance(clip, tmp_path / name, options=options)
    assert (result.frames_in, result.frames_out) == (24, 48)
    sound = audio_packets(tmp_path / name)
    assert 40 <= len(sound) <= 46  # a second is 43 packets of AAC
    at = audio_packets(clip).index(sound[0]) * Fraction(1024, 44100) - Fraction(1024, 44100)  # one packet of priming
    apart = (video_times(tmp_path / name)[0] - audio_start(tmp_path / name)) - (Fraction(3, 2) - at)
    assert abs(apart) < Fraction(1, 1000)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"])
def test_source_frames_arrive_bit_exact(make_clip: MakeClip, tmp_path: Path, blend: list[float], pixels: str) -> None:
    clip = make_clip("in.mkv", rate="24", seconds=0.5, sound=False, encode=(*LOSSLESS, "-pix_fmt", pixels))
    result = enhance(clip, tmp_path / "o.mkv", options=Options(**OFF, multi=Fraction(2), encode=EncodeOptions("ffv1")))
    before, after = raw_planes(clip), raw_planes(tmp_path / "o.mkv")
    assert len(after) == 24 and probe(tmp_path / "o.mkv").format.name == pixels
    for frame, same in zip(before, after[::2], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(frame, same, strict=True))
    assert result.untouched == 13 and result.generated == 11


def test_a_cut_yields_no_mixed_frame(make_clip: MakeClip, tmp_path: Path) -> None:
    scenes = "[0]null[a];[1]null[b];[a][b]concat=n=2"
    clip = tmp_path / "cut.mkv"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=s=192x128:r=12:d=0.5",
        "-f",
        "lavfi",
        "-i",
        "gradients=s=192x128:r=12:d=0.5",
        "-filter_complex",
        scenes,
        "-pix_fmt",
        "yuv420p",
        *LOSSLESS,
        str(clip),
    )
    result = enhance(clip, tmp_path / "o.mkv", options=Options(**OFF, fps=Fraction(48), encode=EncodeOptions("ffv1")))
    assert result.cuts == [0.5]
    frames = raw_planes(tmp_path / "o.mkv")
    last_before, first_after = raw_planes(clip)[5], raw_planes(clip)[6]
    for frame in frames[20:24]:  # the outputs between the two scenes are the last frame before the cut, held
        assert np.array_equal(frame[0], last_before[0])
    assert np.array_equal(frames[24][0], first_after[0])


def test_the_network_follows_a_moving_edge(make_clip: MakeClip, tmp_path: Path) -> None:
    """A real run with the shipped weights: a bar that moves 8 px a frame is half-way at t = ½, not in two places."""
    clip = tmp_path / "bar.mkv"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=gray:s=192x128:r=10:d=0.6",
        "-f",
        "lavfi",
        "-i",
        "color=white:s=24x128:r=10:d=0.6",
        "-filter_complex",
        "[0][1]overlay=x='40+80*t':y=0,format=yuv444p,noise=alls=2",
        *LOSSLESS,
        str(clip),
    )
    enhance(clip, tmp_path / "o.mkv", options=Options(**OFF, fps=Fraction(20), encode=EncodeOptions("ffv1")))

    def middle(luma: np.ndarray) -> float:
        profile = np.clip(luma.astype(float).mean(0) - 140, 0, None)
        return float((profile * np.arange(profile.size)).sum() / profile.sum())

    places = [middle(frame[0]) for frame in raw_planes(tmp_path / "o.mkv")][:11]
    steps = np.diff(places)
    assert np.abs(steps - 4).max() < 1.0, places


def test_a_fade_is_even_and_a_logo_stands_still(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (96, 400)).astype(np.float32)
    wall = np.clip(128 + cv2.GaussianBlur(noise, (0, 0), 2) * 400, 0, 255)
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(9):
        frame = (wall[:, 8 * k : 8 * k + 128] * 0.85 ** max(0, k - 5)).astype(np.uint8)
        cv2.rectangle(frame, (10, 10), (40, 25), 20, -1)
        cv2.putText(frame, "TV", (12, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 240, 2, cv2.LINE_AA)
        assert cv2.imwrite(str(folder / f"{k}.png"), frame)
    maps = tmp_path / "maps"
    options = Options(**OFF, multi=rate("2"), scene_threshold=0.0, confidence_map=maps)
    result = enhance(folder, tmp_path / "out", options=options)
    made = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(float) for path in sorted((tmp_path / "out").iterdir())]
    assert result.generated == 8
    assert len(made) == 18
    for k in range(8):
        middle = (made[2 * k] + made[2 * k + 2]) / 2
        assert abs(made[2 * k + 1].mean() - middle.mean()) < 1.5  # also where it fades
        if k >= 3:  # the logo has stood still for three pairs
            assert np.abs(made[2 * k + 1] - middle)[11:25, 11:40].max() <= 3
    assert sorted(path.name for path in maps.iterdir()) == [f"{2 * k + 1:06}.png" for k in range(8)]


@pytest.mark.parametrize("ticks", [90000, 15360, 1000])
def test_variable_rate_without_interpolation_keeps_every_time(make_clip: MakeClip, tmp_path: Path, ticks: int) -> None:
    clip = make_clip(
        "v.mp4",
        rate="30",
        filters="settb=1/90000,setpts='(N+0.4*sin(N))/30/TB'",
        encode=(
            "-c:v",
            "libx264",
            "-fps_mode",
            "passthrough",
            "-enc_time_base",
            f"1:{ticks}",
            "-video_track_timescale",
            str(ticks),
        ),
    )
    enhance(clip, tmp_path / "o.mp4", options=Options(interpolate=False, deblur="off"))
    assert video_times(tmp_path / "o.mp4") == pytest.approx(video_times(clip), abs=1e-4)


def test_deblur_touches_every_frame_when_told(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(seconds=0.25)
    result = enhance(clip, tmp_path / "o.mp4", options=Options(interpolate=False, deblur="on"))
    assert (result.deblurred, result.untouched, result.frames_out) == (6, 0, 6)


def test_transparency_is_interpolated_too(make_clip: MakeClip, tmp_path: Path, blend: list[float]) -> None:
    clip = make_clip(
        "a.mkv",
        rate="10",
        seconds=0.5,
        sound=False,
        encode=(*LOSSLESS, "-pix_fmt", "yuva420p"),
        filters="format=yuva420p,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='40*N'",
    )
    enhance(clip, tmp_path / "o.mkv", options=Options(**OFF, fps=Fraction(20), encode=EncodeOptions("ffv1")))
    alpha = [float(frame[3].mean()) for frame in raw_planes(tmp_path / "o.mkv")]
    assert alpha[:9] == pytest.approx([20 * k for k in range(9)], abs=0.6)


def test_one_frame_is_enough(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("one.mp4", rate="24", seconds=1 / 24, sound=False)
    result = enhance(clip, tmp_path / "o.mp4", options=Options(**OFF, fps=Fraction(60)))
    assert result.frames_in == 1 and result.frames_out == len(video_times(tmp_path / "o.mp4"))
    assert abs(Fraction(result.frames_out, 60) - Fraction(1, 24)) <= Fraction(1, 120)


def test_an_existing_file_survives_a_failure(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, target = make_clip(seconds=0.5), tmp_path / "o.mp4"
    target.write_bytes(b"precious")
    before = clip.read_bytes()

    def fail(*_: object) -> list[np.ndarray]:
        raise RuntimeError("the network broke")

    monkeypatch.setattr(InterpolatorRunner, "between", fail)
    with pytest.raises(OutputError, match="-y"):
        enhance(clip, target, options=Options(**OFF))
    with pytest.raises(RuntimeError, match="the network broke"):
        enhance(clip, target, options=Options(**OFF, overwrite=True))
    assert target.read_bytes() == b"precious" and clip.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {clip.name, target.name}


def test_interrupt_ends_everything_at_once(make_clip: MakeClip, tmp_path: Path, blend: list[float]) -> None:
    clip = make_clip(seconds=20, rate="30", sound=False)

    def interrupt(now: Progress) -> None:
        if now.done == 5:
            raise KeyboardInterrupt

    threads = threading.active_count()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        enhance(clip, tmp_path / "o.mp4", options=Options(**OFF), on_progress=interrupt)
    assert time.monotonic() - began < 6  # most of it is probing and the trial encode
    assert threading.active_count() <= threads
    assert {path.name for path in tmp_path.iterdir()} == {clip.name}


@pytest.mark.parametrize(
    "options",
    [
        {"deblur": "maybe"},
        {"deblur_strength": 2.0},
        {"start": Fraction(-1)},
        {"start": Fraction(2), "end": Fraction(1)},
        {"scene_threshold": 3.0},
        {"dedup": "often"},
        {"device": "abacus"},
        {"tile": 5},
        {"fps": Fraction(0)},
        {"interpolate": False, "fps": Fraction(60)},
        {"image_rate": Fraction(0)},
    ],
)
def test_senseless_options_are_refused(make_clip: MakeClip, tmp_path: Path, options: dict) -> None:
    with pytest.raises(OptionError):
        enhance(make_clip(seconds=0.25), tmp_path / "o.mp4", options=Options(**{**OFF, **options}))
    assert not (tmp_path / "o.mp4").exists()


def test_nothing_between_start_and_end(make_clip: MakeClip, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frame between"):
        enhance(make_clip(seconds=0.5), tmp_path / "o.mp4", options=Options(**OFF, start=Fraction(50)))
    assert not list(tmp_path.glob("*o.mp4*"))


def test_progress_and_estimate(make_clip: MakeClip, tmp_path: Path, blend: list[float]) -> None:
    clip, seen = make_clip(seconds=1), list[Progress]()
    result = enhance(clip, tmp_path / "o.mp4", options=Options(**OFF, fps=Fraction(60)), on_progress=seen.append)
    assert isinstance(result, Result) and [p.done for p in seen[:-1]] == list(range(1, 61))
    assert {p.stage for p in seen[:-1]} == {"frames"} and seen[-2].total == 60
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("joining", 60, 60)
    expected = estimate(clip, tmp_path / "new.mp4", options=Options(**OFF, fps=Fraction(60)))
    assert (expected.frames_in, expected.frames_out) == (24, 60)
    assert 0.2 * result.size < expected.size < 5 * result.size and expected.seconds > 0 and expected.peak_rss > 0
    assert not (tmp_path / "new.mp4").exists()


def test_every_pair_knows_how_motion_was_before_and_is_behind_but_not_across_a_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames 0 to 3, a cut, 4 and 5, a gap, 6: which flows each pair is told of, and how long those pairs are."""
    told: list[tuple[object, object, tuple[float, float]]] = []

    def with_acceleration(
        prior: tuple, before: object, after: object, lengths: tuple[float, float], *, stride: int
    ) -> tuple:
        assert stride == 4
        told.append((before, after, lengths))
        return prior

    class Runner:
        interpolator = SimpleNamespace(config=SimpleNamespace(stride=4))

        def prior(self, frame0: np.ndarray, frame1: np.ndarray) -> tuple[str]:
            return (f"{frame0[0, 0]}-{frame1[0, 0]}",)

        def between(self, frame0: np.ndarray, frame1: np.ndarray, times: list[float], *_: object) -> list[np.ndarray]:
            return [frame0 for _ in times]

    monkeypatch.setattr("fpsgan.stages.interpolation.with_acceleration", with_acceleration)
    form, color = PixelFormat.of("gray"), Color(full_range=True)
    pts = [Fraction(k, 10) for k in (0, 1, 2, 4, 5, 6, 20)]
    relations = [Relation.MOTION] * 4 + [Relation.CUT] + [Relation.MOTION] * 2
    planes = [np.pad(np.full((1, 1), k, np.uint8), ((0, 31), (0, 31))) for k in range(len(pts))]
    frames = [Frame((p,), form, color, at, Fraction(1, 10)) for p, at in zip(planes, pts, strict=True)]

    def spans() -> Iterator[Span]:
        return schedule(zip(frames, relations, strict=True), Fraction(1, 20), longest_gap=Fraction(1, 2))

    settings = InterpolationSettings(Fraction(20))
    outputs = list(interpolated(spans(), Runner(), settings, Spent()))
    assert [output.number for output in outputs] == list(range(len(outputs)))
    assert told == [
        (None, ("1-2",), (1.0, 1.0)),
        (("0-1",), ("2-3",), (1.0, 2.0)),
        (("1-2",), None, (0.5, 1.0)),
        (None, None, (1.0, 1.0)),
    ]
    told.clear()
    settings = InterpolationSettings(Fraction(20), look_ahead=False)
    assert len(list(interpolated(spans(), Runner(), settings, Spent()))) == len(outputs)
    assert [after for _, after, _ in told] == [None] * 4 and told[1][0] == ("0-1",)


@pytest.mark.parametrize("interpolate", [True, False])
def test_the_first_segment_begins_at_start(
    make_clip: MakeClip, tmp_path: Path, blend: list[float], interpolate: bool
) -> None:
    options = Options(**OFF, interpolate=interpolate, start=Fraction(1, 2), end=Fraction(3, 4))
    result = enhance(make_clip("c.mkv", rate="12", seconds=1), tmp_path / "o.mkv", options=options)
    assert result.frames_in == 3 and result.frames_out == (6 if interpolate else 3)
