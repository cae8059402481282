"""One test or more for each kind of awkward file or wish: what comes out, when it is shown, and what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import audio_packets, ffmpeg, video_times
from test_cli import run

from fpsgan.errors import OutputError
from fpsgan.job import Result, enhance
from fpsgan.options import Options
from fpsgan.video.codecs import EncodeOptions
from fpsgan.video.files import claimed
from fpsgan.video.probe import probe

Call = Callable[..., tuple[int, str, str]]
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "3", "-g", "25", "-pix_fmt", "yuv420p")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """call("enhance", …) → (exit code, standard output, standard error) of the command line, without a network."""
    return lambda *words: run(capsys, monkeypatch, *words)


def source(path: Path, *output: str, tone: int = 330, seconds: float = 1, size: str = "96x64") -> Path:
    """A clip of 25 fps with a sine tone, or the frames of it that ``output`` asks for."""
    ffmpeg(
        "-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d={seconds}",
        "-f", "lavfi", "-i", f"sine={tone}:r=48000:d={seconds}", *output, str(path),
    )  # fmt: skip
    return path


def clip_of(path: Path, *output: str, seconds: float = 1) -> Path:
    """A clip in H.264 with B-frames and AAC, a keyframe a second."""
    return source(path, *X264, "-c:a", "aac", *output, seconds=seconds)


def joined(path: Path, *pieces: Path) -> Path:
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    for piece in pieces:
        piece.unlink()
    return path


def pictures(path: Path) -> list[bytes]:
    """The brightness of every picture that is shown, in order, as ffmpeg decodes it."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray").tobytes() for frame in container.decode(video=0)]


def doubled(clip: Path, **options: object) -> tuple[Result, list[Fraction], list[bytes]]:
    """Interpolated to twice the rate, without loss: (result, times of the source's pictures in it, these pictures)."""
    target = clip.with_name("doubled.mkv")
    given = Options(deblur="off", dedup="off", fps=Fraction(50), encode=EncodeOptions("ffv1"), **options)
    result = enhance(clip, target, options=given)
    times = video_times(target)
    assert len(times) == result.frames_out and abs(result.frames_out - 2 * result.frames_in) <= 1
    assert all(abs(time - times[0] - Fraction(k, 50)) <= Fraction(1, 1000) for k, time in enumerate(times))
    return result, times[::2], pictures(target)[::2]


def heard(path: Path, frequency: int) -> tuple[float, float]:
    """From when to when a tone is heard, in seconds, to a hundredth: where it is the strongest frequency."""
    at: list[float] = []
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        pending, begin = np.zeros(0, np.float32), None
        for frame in container.decode(audio=0):
            begin = frame.time if begin is None else begin
            pending = np.concatenate([pending, frame.to_ndarray().astype(np.float32).mean(0)])
    width = rate // 50
    for k in range(0, len(pending) - width, width // 2):
        power = np.abs(np.fft.rfft(pending[k : k + width]))
        if power.max() > 1e-3 and abs(int(power.argmax()) * 50 - frequency) <= 50:
            at.append(begin + (k + width / 2) / rate)
    return min(at), max(at)


def said(error: str) -> str:
    """The one line that an error is."""
    assert len(error.strip().splitlines()) == 1 and "Traceback" not in error, error
    return error


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# 01: a folder's own files


@pytest.mark.parametrize("command", ["enhance", "interpolate", "deblur"])
@pytest.mark.parametrize("named", ["w", ".", "link", "w/"])
def test_a_folder_with_other_files_is_left_alone(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, command: str, named: str
) -> None:
    folder = tmp_path / "w"
    folder.mkdir()
    clip_of(folder / "clip.mp4", seconds=0.2)
    (folder / "thesis.doc").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder if named == "." else tmp_path)
    before = files(tmp_path)
    clip = "clip.mp4" if named == "." else "w/clip.mp4"
    code, _, error = call(command, clip, "-o", named, "-y")
    assert code == 1 and "did not write" in said(error)
    assert files(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX links and pipes")
def test_links_and_pipes_in_the_way(tmp_path: Path, call: Call) -> None:
    clip = clip_of(tmp_path / "clip.mp4", seconds=0.2)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    (tmp_path / "hard.mp4").hardlink_to(clip)
    (tmp_path / "frames").mkdir()
    os.mkfifo(tmp_path / "frames" / "pipe.png")
    before = files(tmp_path)
    for name, reason in (("loop.mp4", "leads back to itself"), ("link.mp4", "is the input itself"),
                         ("hard.mp4", "is the input itself"), ("frames", "did not write")):  # fmt: skip
        code, _, error = call("interpolate", clip, "-o", tmp_path / name, "-y")
        assert code == 1 and reason in said(error)
    (tmp_path / "dangling.mp4").symlink_to("new.mp4")
    assert call("interpolate", clip, "-o", tmp_path / "dangling.mp4", "--fps", 25)[0] == 0
    assert (tmp_path / "dangling.mp4").is_symlink() and len(video_times(tmp_path / "new.mp4")) == 5
    (tmp_path / "new.mp4").unlink()
    assert files(tmp_path) == before


def test_only_pictures_of_an_earlier_job_are_replaced(tmp_path: Path, call: Call) -> None:
    clip = clip_of(tmp_path / "clip.mp4", seconds=0.2)
    frames = tmp_path / "frames"
    words = ("interpolate", clip, "-o", frames, "--fps", "25")
    assert call(*words)[0] == 0 and len(list(frames.iterdir())) == 5
    assert call(*words)[0] == 1  # without -y
    assert call(*words, "-y")[0] == 0 and len(list(frames.iterdir())) == 5
    source(frames / "000009.png", "-map", "0:v", "-frames:v", "1")  # a picture, but not one of ours
    before = files(tmp_path)
    code, _, error = call(*words, "-y")
    assert code == 1 and "000009.png" in said(error)
    assert files(tmp_path) == before


# 02: joined recordings


@pytest.mark.parametrize(
    ("suffix", "encode", "lengths"),
    [
        (".mpg", ("-c:v", "mpeg2video", "-c:a", "mp2", "-f", "vob"), (1, 2)),
        (".ts", (*X264, "-c:a", "aac"), (1.2, 0.8, 1.6)),
        (".ts", ("-c:v", "mpeg2video", "-bf", "2", "-c:a", "ac3"), (2, 1)),
    ],
)
@pytest.mark.parametrize("suffix_out", [".mkv", ".mp4"])
def test_pieces_of_a_joined_recording_follow_each_other(
    tmp_path: Path, blend: list[float], suffix: str, encode: tuple[str, ...], lengths: tuple[float, ...],
    suffix_out: str,
) -> None:  # fmt: skip
    tones = (400, 1000, 2500)[: len(lengths)]
    pieces = [
        source(tmp_path / f"{tone}{suffix}", *encode, tone=tone, seconds=length)
        for tone, length in zip(tones, lengths, strict=True)
    ]
    shown = [picture for piece in pieces for picture in pictures(piece)]
    clip = joined(tmp_path / f"joined{suffix}", *pieces)
    info = probe(clip)
    assert (info.frame_count, info.frame_rate, info.vfr) == (len(shown), 25, False)
    assert info.duration == sum(Fraction(str(length)) for length in lengths) and not info.damage
    assert f"{len(lengths)} recordings joined" in " ".join(info.notes)
    result, _, kept = doubled(clip)
    assert kept == shown and result.frames_in == len(shown)
    target = tmp_path / f"o{suffix_out}"
    enhance(clip, target, options=Options(deblur="off", interpolate=False))
    zero = float(video_times(target)[0])
    begin = 0.0
    for tone, length in zip(tones, lengths, strict=True):
        first, last = heard(target, tone)
        assert abs(first - zero - begin) < 0.07 and abs(last - zero - begin - length) < 0.07
        begin += length


def test_a_clock_that_wraps_or_was_set_anew(tmp_path: Path, blend: list[float]) -> None:
    """A recording across the end of MPEG's clock (26.5 h), and behind it one that begins anew."""
    wrapped = clip_of(tmp_path / "a.ts", "-output_ts_offset", "95442.7", seconds=2)
    assert (probe(wrapped).frame_count, probe(wrapped).duration) == (50, 2) and not probe(wrapped).notes
    later = clip_of(tmp_path / "b.ts", "-output_ts_offset", "1000")
    shown = pictures(wrapped) + pictures(later)
    clip = joined(tmp_path / "ab.ts", wrapped, later)
    assert probe(clip).duration == 3 and not probe(clip).damage
    assert doubled(clip)[2] == shown


@pytest.mark.parametrize("strays", [1, 3])
def test_stamps_that_stray_and_come_back_hold_nothing_up(tmp_path: Path, blend: list[float], strays: int) -> None:
    """A flipped bit in the times of an FLV (milliseconds): no hour of held frames."""
    clip = source(tmp_path / "a.flv", *X264[:4], "-bf", "0", "-c:a", "aac", seconds=2)
    shown = pictures(clip)
    data = bytearray(clip.read_bytes())
    tags, at = [], 13
    while at < len(data):
        if data[at] == 9:
            tags.append(at)
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    for tag in tags[20 : 20 + strays]:
        data[tag + 7] = 1  # 2²⁴ ms: over four hours
    clip.write_bytes(data)
    info = probe(clip)
    assert (info.frame_count, info.frame_rate, info.vfr, info.duration) == (50, 25, False, 2)
    assert "its clock goes from" in " ".join(info.notes)
    result, _, kept = doubled(clip)
    assert kept == shown and abs(result.av_offset_out - result.av_offset_in) < 0.002


# 03: edit lists


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_what_an_edit_list_hides_is_not_missing(tmp_path: Path, blend: list[float], suffix: str) -> None:
    whole = clip_of(tmp_path / "whole.mp4", seconds=2)
    clip = tmp_path / f"trimmed{suffix}"
    ffmpeg("-ss", "1.3", "-i", str(whole), "-c", "copy", str(clip))
    info = probe(clip)
    assert info.frame_count == 17 < info.header_frames and not info.damage and not info.notes
    result, _, kept = doubled(clip)
    assert kept == pictures(whole)[33:] and not result.notes
    assert result.av_offset_in == pytest.approx(result.av_offset_out, abs=1e-3)


def test_an_empty_edit_is_a_late_start(tmp_path: Path, blend: list[float]) -> None:
    whole = clip_of(tmp_path / "whole.mp4")
    clip = tmp_path / "late.mp4"
    ffmpeg(
        "-itsoffset", "0.8", "-i", str(whole), "-i", str(whole), "-map", "0:v", "-map", "1:a", "-c", "copy", str(clip)
    )
    assert probe(clip).start - probe(clip).origin == Fraction(4, 5)
    _, times, kept = doubled(clip)
    assert kept == pictures(whole) and abs(times[0] - Fraction(4, 5)) <= Fraction(1, 1000)


# 04: containers that keep decode times


@pytest.mark.parametrize(
    ("name", "remux"),
    [
        ("clip.avi", ("-c:v", "copy", "-c:a", "libmp3lame")),
        ("clip.mkv", ("-c", "copy", "-bsf:v", "setts=pts=DTS")),  # as written without composition offsets
    ],
)
def test_decode_times_are_not_taken_for_the_order_shown(
    tmp_path: Path, blend: list[float], name: str, remux: tuple[str, ...]
) -> None:
    whole = clip_of(tmp_path / "whole.mp4", seconds=2)
    clip = tmp_path / name
    ffmpeg("-i", str(whole), *remux, str(clip))
    info = probe(clip)
    assert (info.frame_count, info.frame_rate, info.vfr, info.duration) == (50, 25, False, 2)
    assert doubled(clip)[2] == pictures(whole)
    kept = doubled(clip, start=Fraction(6, 5), end=Fraction(8, 5), overwrite=True)[2]
    assert len(kept) == 10 and kept == pictures(whole)[30:40]


def test_mpeg4_with_b_frames_in_avi(tmp_path: Path, blend: list[float]) -> None:
    clip = source(tmp_path / "clip.avi", "-c:v", "mpeg4", "-bf", "2", "-c:a", "libmp3lame")
    assert (probe(clip).frame_count, probe(clip).duration) == (25, 1)
    assert doubled(clip)[2] == pictures(clip)


# 06 and 11: sound that nobody knows, sound with a hole


def unknown(clip: Path, path: Path) -> Path:
    """The last sound track of an MP4 or MOV becomes one that no decoder knows."""
    data = bytearray(clip.read_bytes())
    entry = data.find(b"mp4a", data.rfind(b"stsd"))
    descriptor = data.find(b"esds", entry)
    data[entry : entry + 4], data[descriptor : descriptor + 4] = b"apac", b"dapa"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("suffix", "tracks"), [(".mkv", 1), (".mp4", 1), (".mov", 2)])
def test_a_track_that_nothing_decodes_is_copied_or_left_out(
    tmp_path: Path, call: Call, suffix: str, tracks: int
) -> None:
    whole, two = clip_of(tmp_path / "whole.mp4", seconds=0.4), tmp_path / "two.mov"
    ffmpeg("-i", str(whole), "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c", "copy", str(two))
    target = tmp_path / f"o{suffix}"
    code, _, error = call("interpolate", unknown(two, tmp_path / "in.mov"), "-o", target, "--fps", 25)
    assert code == 0
    with av.open(str(target)) as container:
        assert len(container.streams.audio) == tracks
    assert ("audio stream 2 (none) is left out" in error) == (tracks == 1)
    assert audio_packets(target) == audio_packets(whole)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_lost_packet_of_sound_costs_a_moment(tmp_path: Path, call: Call, suffix: str) -> None:
    clip = clip_of(tmp_path / "whole.ts", seconds=2)
    packets = [clip.read_bytes()[k : k + 188] for k in range(0, clip.stat().st_size, 188)]
    sound = [k for k, packet in enumerate(packets) if (packet[1] & 31) << 8 | packet[2] == 257]
    del packets[sound[len(sound) // 2]]
    (tmp_path / "lost.ts").write_bytes(b"".join(packets))
    target = tmp_path / f"o{suffix}"
    code, _, error = call("interpolate", tmp_path / "lost.ts", "-o", target, "--fps", 25)
    assert code == 0 and "audio stream 1 (aac) is damaged" in error
    assert len(video_times(target)) == 50
    left = {packet[-20:] for packet in audio_packets(target)}
    assert 0.75 < len(left & {packet[-20:] for packet in audio_packets(clip)}) / len(audio_packets(clip)) < 1


# 08: metadata in any encoding


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("title", [b"Caf\xe9", b"\x81\x8d\xff", "Café\u2028日本".encode()])
def test_a_title_in_any_encoding(tmp_path: Path, call: Call, suffix: str, title: bytes) -> None:
    clip, text = clip_of(tmp_path / "whole.mp4", seconds=0.2), os.fsdecode(title)
    named = tmp_path / f"named{suffix}"
    ffmpeg("-i", str(clip), "-c", "copy", "-metadata", f"title={text}", "-metadata:s:a", f"title={text}", str(named))
    target = tmp_path / f"o{suffix}"
    code, _, error = call("interpolate", named, "-o", target, "--fps", 25)
    assert code == 0, error
    with av.open(str(target)) as container:
        expected = text if title.decode(errors="ignore").encode() == title else title.decode("cp1252", "replace")
        assert container.metadata["title"] == expected


# 09: --start between keyframes


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("clip.ts", (*X264, "-c:a", "aac")),
        ("clip.mp4", (*X264, "-c:a", "aac")),
        ("clip.mkv", ("-c:v", "libx264", "-x264-params", "open-gop=1:keyint=20:bframes=3", "-c:a", "flac")),
        ("clip.mp4", ("-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=15", "-c:a", "aac")),
        ("clip.mpg", ("-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-c:a", "mp2")),
        ("clip.flv", (*X264, "-c:a", "aac")),
    ],
)
def test_start_is_exact_for_picture_and_sound(
    tmp_path: Path, blend: list[float], name: str, encode: tuple[str, ...]
) -> None:
    clip = source(tmp_path / name, *encode, "-pix_fmt", "yuv420p", "-af", "volume='gt(t,1.5)':eval=frame", seconds=2)
    late = probe(clip).start - probe(clip).origin  # of the first picture, behind the sound
    result, times, kept = doubled(clip, start=Fraction(13, 10), end=Fraction(18, 10))
    first = next(k for k in range(50) if Fraction(k, 25) + late >= Fraction(13, 10))
    count = sum(Fraction(13, 10) <= Fraction(k, 25) + late < Fraction(18, 10) for k in range(50))
    assert kept == pictures(clip)[first : first + count] and result.frames_in == count
    assert abs(times[0] - (Fraction(first, 25) + late - Fraction(13, 10))) <= Fraction(1, 1000)
    begin = heard(tmp_path / "doubled.mkv", 330)[0]  # silent until 1.5 s
    assert abs(begin - 0.2) < 0.07


# 10: what cannot be read twice


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_pipe_is_refused_in_one_line(tmp_path: Path, call: Call) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/null")):
        code, _, error = call("interpolate", path, "-o", tmp_path / "o.mp4")
        assert code == 1 and "cannot be read twice" in said(error) and "fpsgan stream" in error


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="no /dev/stdin")
def test_a_file_on_standard_input_is_read(tmp_path: Path) -> None:
    clip, target = clip_of(tmp_path / "in.mp4", seconds=0.2), tmp_path / "o.mp4"
    words = [sys.executable, "-m", "fpsgan", "interpolate", "/dev/stdin", "-o", str(target), "--fps", "25"]
    with clip.open("rb") as file:
        done = subprocess.run(words, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(video_times(target)) == 5 and audio_packets(target) == audio_packets(clip)


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_no_result_goes_into_a_pipe_or_a_device(tmp_path: Path, call: Call) -> None:
    clip = clip_of(tmp_path / "clip.mp4", seconds=0.2)
    os.mkfifo(tmp_path / "o.mp4")
    code, _, error = call("interpolate", clip, "-o", tmp_path / "o.mp4", "-y")
    assert code == 1 and "pipe" in said(error)
    code, _, error = call("interpolate", clip, "-o", "-")
    assert code == 1 and "fpsgan stream" in said(error) and not Path("-").exists()


# 13: names


@pytest.mark.skipif(os.name == "nt", reason="POSIX names")
@pytest.mark.parametrize(
    "name",
    ["a:b", "12:30", "concat:x", "pipe:0", "-x", "100%", "%03d", "a b\n'\"|c", "file,f=x", os.fsdecode(b"caf\xe9"),
     "日本 ü", "é" * 125 + "x"],
)  # fmt: skip
def test_any_name_works(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    clip_of(tmp_path / "in.mp4", seconds=0.2).rename(f"{name}.mp4")
    dash = "./" if name.startswith("-") else ""
    code, _, error = call("interpolate", f"{dash}{name}.mp4", "-o", f"{dash}{name}.mkv", "--fps", 25)
    assert code == 0, error
    assert len(video_times(tmp_path / f"{name}.mkv")) == 5
    code, _, error = call("interpolate", f"{dash}{name}.mkv", "-o", f"{dash}{name}", "--fps", 25)
    assert code == 0, error
    assert len(list((tmp_path / name).iterdir())) == 5
    code, out, _ = call("probe", f"{dash}{name}")
    assert code == 0 and "5 frames" in out
    assert len(list(tmp_path.iterdir())) == 3


def test_a_name_that_no_file_can_have(tmp_path: Path, call: Call) -> None:
    clip = clip_of(tmp_path / "in.mp4", seconds=0.2)
    for stem in ("x" * 252, "ö" * 126):  # it is bytes that count
        code, _, error = call("interpolate", clip, "-o", tmp_path / f"{stem}.mp4")
        assert code == 1 and "longer than 255 bytes" in said(error)


# 14: sound that begins late


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".ts"])
def test_late_sound_is_copied_and_stays_late(tmp_path: Path, blend: list[float], suffix: str) -> None:
    clip = tmp_path / "late.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2", "-itsoffset", "1.1", "-f", "lavfi", "-i", "sine=330:d=1",
        *X264, "-c:a", "aac", str(clip),
    )  # fmt: skip
    target = tmp_path / f"o{suffix}"
    result = enhance(clip, target, options=Options(deblur="off"))
    assert "audio 1: copy" in result.streams and not result.notes
    assert audio_packets(target)[-5:] == audio_packets(clip)[-5:] or suffix == ".ts"  # there each has a header
    assert abs(heard(target, 330)[0] - float(video_times(target)[0]) - 1.1) < 0.07


@pytest.mark.parametrize("offset", [("-itsoffset", "1.5"), ("-itsoffset", "50", "-output_ts_offset", "50")])
def test_sound_that_must_be_encoded_is_found_wherever_it_is(
    tmp_path: Path, blend: list[float], offset: tuple[str, ...]
) -> None:
    """Before the first picture, or at times that begin late."""
    whole, clip = clip_of(tmp_path / "whole.mp4"), tmp_path / "clip.mkv"
    second = ("-i", str(whole)) if len(offset) == 2 else (*offset[:2], "-i", str(whole))
    ffmpeg(*offset[:2], "-i", str(whole), *second, "-map", "0:v", "-map", "1:a", "-c", "copy", *offset[2:], str(clip))
    target = tmp_path / "o.webm"
    result = enhance(clip, target, options=Options(deblur="off", interpolate=False))
    assert "audio 1: libopus" in result.streams
    late = 1.5 if len(offset) == 2 else 0
    assert abs(float(video_times(target)[0]) - heard(target, 330)[0] - late) < 0.07


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "libopus", "libvorbis", "dca", "eac3"])
def test_sound_in_avi_lasts_as_long_and_every_picture_has_its_slot(
    tmp_path: Path, blend: list[float], codec: str
) -> None:
    clip, target = tmp_path / "clip.mkv", tmp_path / "o.avi"
    source(clip, *X264, "-c:a", codec, "-strict", "-2", "-af", "volume='lt(t,0.8)':eval=frame", seconds=2)
    options = Options(deblur="off", fps=Fraction(50), encode=EncodeOptions("ffv1"))
    assert enhance(clip, target, options=options).frames_out == 100
    assert video_times(target) == [Fraction(k, 50) for k in range(100)]
    assert abs(heard(target, 330)[1] - 0.8) < 0.08


# 15: two jobs, one output


def test_the_second_job_is_told_at_once(tmp_path: Path, call: Call) -> None:
    clip, target = clip_of(tmp_path / "in.mp4", seconds=0.2), tmp_path / "o.mp4"
    with claimed(target):
        code, _, error = call("interpolate", clip, "-o", target)
        assert code == 1 and "is being written by another fpsgan" in said(error)
    assert call("interpolate", clip, "-o", target, "--fps", 25)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "o.mp4"}


def test_the_first_job_is_not_disturbed(tmp_path: Path, blend: list[float]) -> None:
    clip, target = clip_of(tmp_path / "in.mp4", seconds=0.4), tmp_path / "o.mp4"
    refused: list[str] = []

    def again(_: object) -> None:
        try:
            enhance(clip, target, options=Options(deblur="off", overwrite=True))
        except OutputError as error:
            refused.append(str(error))

    result = enhance(clip, target, options=Options(deblur="off"), on_progress=again)
    assert len(refused) - 1 == result.frames_out == len(video_times(target)) == 20  # and once before the joining


# 18: files cut short, files with a hole


@pytest.mark.parametrize(
    ("suffix", "encode"),
    [
        (".mkv", (*X264, "-c:a", "aac")),
        (".webm", ("-c:v", "libvpx", "-cpu-used", "8", "-c:a", "libopus")),
        (".mp4", (*X264, "-c:a", "aac", "-movflags", "faststart")),
        (".flv", (*X264, "-c:a", "aac")),
        (".avi", ("-c:v", "mpeg4", "-c:a", "libmp3lame")),
    ],
)
def test_a_file_cut_short_is_said_before_the_work(
    tmp_path: Path, call: Call, suffix: str, encode: tuple[str, ...]
) -> None:
    whole = source(tmp_path / f"whole{suffix}", *encode, seconds=3)
    clip, target = tmp_path / f"cut{suffix}", tmp_path / "o.mp4"
    clip.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cut short" in " ".join(map(str, probe(clip).damage))
    code, out, _ = call("probe", clip)
    assert code == 0 and "cut short" in out
    for more in ((), ("--dry-run",)):
        code, _, error = call("interpolate", clip, "-o", target, "--fps", 25, *more)
        assert code == 1 and "--on-error conceal" in said(error.splitlines()[-1]) and not target.exists()
    code, out, error = call("interpolate", clip, "-o", target, "--fps", 25, "--on-error", "conceal", "--json")
    assert code == 0 and "cut short" in error
    assert 20 <= json.loads(out)["frames_in"] <= 55


def test_whole_files_are_not_called_cut(tmp_path: Path) -> None:
    for k, more in enumerate(
        (("-output_ts_offset", "5"), ("-af", "apad=whole_dur=4"), ("-f", "matroska", "-live", "1"))
    ):
        clip = clip_of(tmp_path / f"{k}.mkv", *more)
        assert not probe(clip).damage and probe(clip).frame_count == 25


# 20: signals (see test_cli for SIGINT, SIGTERM and SIGHUP), and one bad input of many


def test_one_bad_input_does_not_end_a_batch(tmp_path: Path, call: Call) -> None:
    inputs = [clip_of(tmp_path / f"{k}.mp4", seconds=0.2) for k in range(3)]
    inputs[1].write_bytes(b"no video")
    code, out, error = call("interpolate", *inputs, "-o", tmp_path / "new" / "folder", "--fps", 25, "--json")
    assert code == 1
    assert sum("1.mp4: not a video" in line for line in error.splitlines()) == 1
    assert "1 of 3 inputs failed" in error.splitlines()[-1]
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"0.mp4", "2.mp4"}
    assert [record["frames_in"] for record in json.loads(out)] == [5, 5]


def test_inputs_of_one_name_are_refused_before_the_work(tmp_path: Path, call: Call) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        clip_of(tmp_path / name / "clip.mp4", seconds=0.2)
    code, _, error = call("interpolate", tmp_path / "a/clip.mp4", tmp_path / "b/clip.mp4", "-o", tmp_path / "o")
    assert code == 2 and "two inputs would both become" in said(error) and not (tmp_path / "o").exists()


# 22: the size changes on the way


def test_a_change_of_size_is_fitted_and_named(tmp_path: Path, blend: list[float]) -> None:
    pieces = [
        source(tmp_path / f"{size}.ts", *X264, "-c:a", "aac", size=size) for size in ("160x90", "120x90", "64x128")
    ]
    first = pictures(pieces[0])
    clip = joined(tmp_path / "sizes.ts", *pieces)
    result, _, kept = doubled(clip)
    assert result.frames_in == 75 and kept[:25] == first
    notes = [note for note in result.notes if "changes size" in note]
    assert len(notes) == 2 and "120×90: fitted into 160×90" in notes[0] and "64×128" in notes[1]
    pillar = np.frombuffer(kept[40], np.uint8).reshape(90, 160)
    assert (pillar[:, :20] <= 16).all() and (pillar[:, 140:] <= 16).all() and pillar[:, 20:140].std() > 20
