"""Film and fields: found by measuring, and undone, against the pictures that they were made from."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpsgan.errors import OptionError
from fpsgan.video.decode import decode
from fpsgan.video.fields import Kind, Scan, treated
from fpsgan.video.frame import Frame
from fpsgan.video.probe import VideoInfo, probe
from tests.conftest import MakeClip, ffmpeg

MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ildct+ilme")
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-pix_fmt", "yuv420p")
H264I = (*H264, "-flags", "+ildct+ilme")
FILM = "24000/1001"
PICTURE = "testsrc2=s=320x240"


def found(info: VideoInfo, mode: str = "auto", *, interpolate: bool = True, **more: Any) -> list[Frame]:
    return list(decode(treated(info, mode, interpolate=interpolate), **more))


def truth(make_clip: MakeClip, rate: str, seconds: float, filters: str = "null") -> list[Frame]:
    clip = make_clip("truth.mkv", rate=rate, seconds=seconds, video=PICTURE, sound=False, filters=filters,
                     encode=("-c:v", "ffv1", "-pix_fmt", "yuv420p"))  # fmt: skip
    return list(decode(probe(clip)))


def psnr(ours: list[Frame], theirs: list[Frame]) -> list[float]:
    errors = [np.mean((a.luma.astype(float) - b.luma) ** 2) for a, b in zip(ours, theirs, strict=True)]
    return [float(10 * np.log10(255**2 / max(error, 1e-9))) for error in errors]


@pytest.mark.parametrize(
    ("name", "encode", "first", "drawn"),
    [
        ("a.mpg", MPEG2, "top", FILM),
        ("b.mpg", MPEG2, "bottom", FILM),
        ("c.ts", H264I, "top", FILM),
        ("unflagged.mp4", H264, "top", FILM),
        ("twos.mpg", MPEG2, "top", "12000/1001"),
    ],
)
def test_telecined_film_is_found_again(
    make_clip: MakeClip, name: str, encode: tuple[str, ...], first: str, drawn: str
) -> None:
    telecine = f"fps={FILM},telecine=first_field={first}:pattern=23,setfield={first[0]}ff"
    clip = make_clip(name, rate=drawn, seconds=4, video=PICTURE, sound=False, filters=telecine, encode=encode)
    info = probe(clip)
    assert info.scan == Scan(Kind.FILM, first == "top") and info.frame_count == 120
    film = treated(info, "auto", interpolate=True)
    assert film.frame_rate == Fraction(24000, 1001) and film.frame_count == 96 and not film.vfr
    frames = list(decode(film))
    start = info.start - info.origin
    assert [frame.pts - start for frame in frames] == [Fraction(1001 * k, 24000) for k in range(96)]
    assert min(psnr(frames, truth(make_clip, drawn, 4, f"fps={FILM}"))) > 40  # each once, in order


def test_film_from_the_middle(make_clip: MakeClip) -> None:
    info = probe(make_clip("m.mpg", rate=FILM, seconds=4, video=PICTURE, sound=False, encode=MPEG2,
                           filters="telecine=pattern=23"))  # fmt: skip
    frames, start = found(info), info.start - info.origin
    part = found(info, start=start + 2)
    assert [frame.pts for frame in part] == [frame.pts for frame in frames if frame.pts >= start + 2]
    assert min(psnr(part, frames[-len(part) :])) > 35


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 8, 11, 13])
def test_the_end_of_telecined_film_loses_nothing(make_clip: MakeClip, frames: int) -> None:
    """Any number of film frames comes back (a last one that only one field shows, too)."""
    film = truth(make_clip, FILM, 1)[:frames]
    clip = make_clip("t.mpg", rate=FILM, seconds=(frames - 0.5) * 1001 / 24000, video=PICTURE, sound=False,
                     filters="telecine=pattern=23", encode=MPEG2)  # fmt: skip
    info = dataclasses.replace(probe(clip), scan=Scan(Kind.FILM, True))
    again = found(info)
    assert len(film) - len(again) in (0, 1), (info.frame_count, len(again))
    assert min(psnr(again, film[: len(again)])) > 25  # the last may be known by one field only


def test_euro_pulldown(make_clip: MakeClip) -> None:
    clip = make_clip("e.mpg", rate="24", seconds=6, video=PICTURE, sound=False, encode=MPEG2,
                     filters="telecine=pattern=222222222223")  # fmt: skip
    info = probe(clip)
    assert info.frame_rate == 25 and info.scan == Scan(Kind.EURO_FILM, True)
    frames = found(info)
    assert len(frames) in (143, 144) and {b.pts - a.pts for a, b in pairwise(frames)} == {Fraction(1, 24)}
    assert min(psnr(frames, truth(make_clip, "24", 6)[: len(frames)])) > 35


def repeat_field_flags(folder: Path) -> Path:
    """MPEG-2 film at 23.976 turned into what a DVD holds: marked as 29.97, with repeat-field flags."""
    plain = folder / "plain.m2v"
    ffmpeg("-f", "lavfi", "-i", f"{PICTURE}:r={FILM}:d=4", "-c:v", "mpeg2video", "-q:v", "2", "-bf", "0", str(plain))
    data, number = bytearray(plain.read_bytes()), 0
    for start in (match.start() for match in re.finditer(rb"\x00\x00\x01[\xb3\xb5]", bytes(data))):
        if data[start + 3] == 0xB3:
            data[start + 7] = data[start + 7] & 0xF0 | 4  # 30000/1001
        elif data[start + 4] >> 4 == 1:
            data[start + 5] &= ~0x08  # not a progressive sequence
        elif data[start + 4] >> 4 == 8:
            top, repeat = ((1, 1), (0, 0), (0, 1), (1, 0))[number % 4]
            data[start + 7] = data[start + 7] & 0x7D | top << 7 | repeat << 1
            data[start + 8] |= 0x80  # a progressive frame
            number += 1
    assert number == 96
    flagged, target = folder / "flagged.m2v", folder / "flagged.mkv"
    flagged.write_bytes(data)
    ffmpeg("-fflags", "+genpts", "-i", str(flagged), "-c", "copy", str(target))
    return target


def test_film_by_repeat_field_flags(tmp_path: Path, make_clip: MakeClip) -> None:
    info = probe(repeat_field_flags(tmp_path))
    assert info.vfr and info.scan.kind is Kind.FILM_FLAGS
    frames = found(info)
    assert [frame.pts - frames[0].pts for frame in frames] == [Fraction(1001 * k, 24000) for k in range(96)]
    assert min(psnr(frames, truth(make_clip, FILM, 4))) > 40


@pytest.mark.parametrize(("name", "encode", "first"), [("i.mpg", MPEG2, "tff"), ("i.ts", H264I, "bff")])
def test_fields_are_moments(make_clip: MakeClip, name: str, encode: tuple[str, ...], first: str) -> None:
    clip = make_clip(name, rate="50", seconds=3, video=PICTURE, sound=False, encode=encode,
                     filters=f"interlace=scan={first}:lowpass=off")  # fmt: skip
    info = probe(clip)
    assert info.scan == Scan(Kind.INTERLACED, first == "tff") and info.frame_rate == 25
    fields, frames = found(info), found(info, interpolate=False)
    start = info.start - info.origin
    assert [frame.pts - start for frame in fields] == [Fraction(k, 50) for k in range(150)]
    assert [frame.pts - start for frame in frames] == [Fraction(k, 25) for k in range(75)]
    moments = truth(make_clip, "50", 3)
    here = psnr(fields, moments)
    assert np.mean(here) > 30
    assert all(a > b for a, b in zip(here[:-1], psnr(fields[:-1], moments[1:]), strict=True))  # this one, no neighbour
    assert np.mean(psnr(frames, moments[::2])) > 30
    assert len(found(info, "off")) == 75


@pytest.mark.parametrize(
    ("name", "rate", "filters", "encode"),
    [
        ("two-two.mpg", "25", "setfield=tff", MPEG2),
        ("two-two.ts", "25", "setfield=tff", H264I),
        ("plain.mp4", "30000/1001", "null", H264),
        ("twos.mp4", "15", "fps=30", H264),
        ("film-twos.mp4", "12", "fps=30", H264),
        ("stripes.mp4", "25", "geq=lum='if(mod(Y,2),210,40)+10*sin(X/9+N)':cb=128:cr=128", H264),
        ("scroll.mp4", "30", "geq=lum='if(mod(Y+N,2),210,40)':cb=128:cr=128", H264),
        ("roll.mp4", "25", "scroll=v=0.0078125", H264),
        ("noise.mp4", "30", "noise=alls=20:allf=t", H264),
        ("still.mp4", "30", "select=eq(n\\,0),loop=99:1,setpts=N/30/TB", H264),
    ],
)
def test_progressive_video_is_left_alone(
    make_clip: MakeClip, name: str, rate: str, filters: str, encode: tuple[str, ...]
) -> None:
    info = probe(make_clip(name, rate=rate, seconds=3, video=PICTURE, sound=False, filters=filters, encode=encode))
    assert info.scan == Scan()
    assert treated(info, "auto", interpolate=True) is info


def test_shifted_fields(make_clip: MakeClip) -> None:
    clip = make_clip("s.mpg", rate="25", seconds=3, video=PICTURE, sound=False, filters="phase=t,setfield=bff",
                     encode=MPEG2)  # fmt: skip
    info = probe(clip)
    assert info.scan.kind is Kind.SHIFTED
    frames = found(info)
    assert len(frames) == 75
    assert np.median(psnr(frames[1:], truth(make_clip, "25", 3)[:-1])) > 40


def test_film_needs_a_constant_rate(make_clip: MakeClip) -> None:
    info = dataclasses.replace(probe(make_clip(seconds=0.5)), vfr=True)
    with pytest.raises(OptionError, match="constant frame rate"):
        treated(info, "film", interpolate=True)
