"""Watch it now: every moment has its picture, effort goes before time does, sound stays in step, and whatever ends is a
clean end."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import MakeClip, audio_packets, ffmpeg, raw_planes, video_times

from fpsgan import live as module
from fpsgan.errors import FpsganError, InputError, OptionError, OutputError
from fpsgan.interpolator import InterpolatorRunner
from fpsgan.live import StreamReport, stream
from fpsgan.live.effort import Clock, Effort, Level, Planned
from fpsgan.live.source import Source
from fpsgan.options import Options
from fpsgan.stages.timeline import Span
from fpsgan.video.ffmpeg import ffmpeg_path
from fpsgan.video.frame import Color, Frame, PixelFormat

OFF = Options(deblur="off", half=False, weights="interpolator-fast")
COMMAND = [sys.executable, "-m", "fpsgan", "stream"]
QUICK = ["--deblur", "off", "--weights", "interpolator-fast"]
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p")
# a flash of a tenth of a second every second, with a beep
FLASH = "lutyuv=y=val/4,drawbox=t=fill:c=white:enable='lt(mod(t,1),0.1)'"
BEEP = "aevalsrc='0.5*sin(2*PI*1000*t)*lt(mod(t,1),0.1)':s=48000"


def frame(number: int) -> Frame:
    planes = tuple(np.zeros(shape, np.uint8) for shape in ((32, 32), (16, 16), (16, 16)))
    return Frame(planes, PixelFormat.of("yuv420p"), Color(), Fraction(number, 10), Fraction(1, 10))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_taken(port: int) -> bool:
    """Whether somebody listens there, who is not disturbed by the question."""
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that whoever comes at this moment may bind too
        try:
            asked.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[StreamReport, bytes]]:
    """stream(source, "-") into a file: (the report, what was written)."""

    def run(source: Path, **more: Any) -> tuple[StreamReport, bytes]:
        path = tmp_path / "piped"
        with path.open("wb") as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", file)
            report = stream(str(source), "-", **{"options": OFF, "max_delay": 30} | more)
        return report, path.read_bytes()

    return run


@pytest.fixture
def film(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Two tracks of sound, of which the second begins late, subtitles and their font."""
    (tmp_path / "a.ttf").write_bytes(b"font")
    (tmp_path / "s.srt").write_text("1\n00:00:00,500 --> 00:00:00,900\nHello\n")
    path, picture = tmp_path / "film.mkv", make_clip("p.mkv", rate="10", seconds=1.5, sound=False)
    ffmpeg(
        "-i", str(picture), "-f", "lavfi", "-i", "sine=330:r=44100:d=1.5", "-itsoffset", "0.7", "-f", "lavfi", "-i",
        "sine=660:r=44100:d=0.8", "-i", str(tmp_path / "s.srt"), "-map", "0", "-map", "1", "-map", "2", "-map", "3",
        "-c:v", "copy", "-c:a", "libmp3lame", "-c:s", "srt", "-metadata:s:a:1", "language=ger", "-attach",
        str(tmp_path / "a.ttf"), "-metadata:s:t", "mimetype=font/ttf", str(path),
    )  # fmt: skip
    return path


def heard(opened: Any) -> dict[int, list[tuple[float, bytes]]]:
    """(time since the first picture, packet) of each stream."""
    with opened as container:
        packets = [(p.stream_index, float(p.pts * p.time_base), bytes(p)) for p in container.demux() if p.size]
    first = min(when for index, when, _ in packets if index == 0)
    found: dict[int, list[tuple[float, bytes]]] = {}
    for index, when, data in packets:
        found.setdefault(index, []).append((when - first, data))
    return found


def test_a_file_is_doubled_at_its_own_speed(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=1)
    seen: list[int] = []
    began = time.monotonic()
    report = stream(
        str(clip), str(tmp_path / "o.mkv"), options=OFF, max_delay=30, on_report=lambda now: seen.append(now.frames_out)
    )
    assert time.monotonic() - began >= 0.9 and seen
    times = video_times(tmp_path / "o.mkv")
    assert (report.frames_in, report.frames_out, report.generated, len(times)) == (10, 20, 9, 20)
    assert times[-1] - times[0] == pytest.approx(0.95, abs=2e-3) and report.fps == 20
    assert (report.held, report.dropped, report.ended) == (0, 0, "the source ended")
    assert (
        report.levels == {"interpolator-fast": 20} and report.latency <= report.latency_p95 <= report.latency_max < 30
    )
    assert (report.width, report.height) == (96, 64)
    assert audio_packets(tmp_path / "o.mkv") == audio_packets(clip)


@pytest.mark.parametrize(
    ("pix_fmt", "container"),
    [("yuv420p", "matroska"), ("yuv444p10le", "matroska"), ("gbrp10le", "matroska"), ("yuv422p12le", "nut"),
     ("yuv420p10le", "yuv4mpegpipe")],
)  # fmt: skip
def test_pixel_formats_are_kept(
    pix_fmt: str, container: str, make_clip: MakeClip, piped: Callable[..., tuple[StreamReport, bytes]]
) -> None:
    hdr = ",setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc" if pix_fmt[0] == "y" else ""
    encode = ("-c:v", "ffv1", "-pix_fmt", pix_fmt)
    clip = make_clip("c.mkv", rate="10", seconds=0.4, sound=False, encode=encode, filters=f"setsar=4/3{hdr}")
    options = Options(deblur="off", half=False, weights="interpolator-fast", multi=Fraction(1))
    report, written = piped(clip, options=options, format=container)
    assert report.frames_out == 4
    with av.open(io.BytesIO(written)) as opened:
        video = opened.streams.video[0]
        pictures = list(opened.decode(video))
        assert {picture.format.name for picture in pictures} == {pix_fmt} and video.average_rate == 10
        assert container == "nut" or video.sample_aspect_ratio == Fraction(4, 3)
        if container == "matroska" and pix_fmt[0] == "y":
            first = pictures[0]
            assert [int(tag) for tag in (first.color_primaries, first.color_trc, first.colorspace)] == [9, 16, 9]
        for picture, planes in zip(pictures, raw_planes(clip), strict=True):  # at its own rate nothing is changed
            for found, plane in zip(picture.planes, planes, strict=True):
                lines = np.frombuffer(found, np.uint8).reshape(-1, found.line_size)
                assert np.array_equal(lines[: plane.shape[0], : plane.shape[1]], plane)


def test_a_film_keeps_its_sound_and_subtitles_in_step(
    film: Path, piped: Callable[..., tuple[StreamReport, bytes]]
) -> None:
    notes: list[str] = []
    report, written = piped(film, on_note=notes.append)
    assert report.frames_out == 30 and not notes
    before, after = heard(av.open(str(film))), heard(av.open(io.BytesIO(written)))
    assert len(before) == len(after) == 4
    for index in (1, 2, 3):
        assert [data for _, data in after[index]] == [data for _, data in before[index]]
        for (time0, _), (time1, _) in zip(before[index], after[index], strict=True):
            assert time1 == pytest.approx(time0, abs=2e-3)
    with av.open(io.BytesIO(written)) as opened:
        assert [track.language for track in opened.streams.audio] == [None, "ger"]
        (font,) = opened.streams.attachments
        assert (font.name, font.mimetype, bytes(font.data)) == ("a.ttf", "font/ttf", b"font")


def test_what_a_container_does_not_hold_is_encoded_anew_or_named(
    film: Path, tmp_path: Path, piped: Callable[..., tuple[StreamReport, bytes]]
) -> None:
    mp4 = tmp_path / "film.mp4"
    ffmpeg("-i", str(film), "-map", "0", "-map", "-0:t", "-c", "copy", "-c:s", "mov_text", str(mp4))
    _, written = piped(mp4)
    found = heard(av.open(io.BytesIO(written)))
    assert [(round(when, 3), data) for when, data in found[3]] == [(0.5, b"Hello")]
    notes: list[str] = []
    stream(str(mp4), str(tmp_path / "o.mp4"), options=OFF, max_delay=30, on_note=notes.append)
    with av.open(str(tmp_path / "o.mp4")) as opened:
        assert [s.codec_context.name for s in opened.streams] == ["h264", "mp3float", "mp3float", "mov_text"]
        assert not notes
    ts = tmp_path / "film.ts"
    ffmpeg("-i", str(film), "-map", "0:v", "-map", "0:a", "-c:v", "copy", "-c:a", "aac", str(ts))
    _, written = piped(ts, on_note=notes.append)
    with av.open(io.BytesIO(written)) as opened:
        assert [s.codec_context.name for s in opened.streams.audio] == ["pcm_s16le"] * 2 and not notes
    piped(film, on_note=notes.append, format="yuv4mpegpipe")
    assert notes == [f"{name} is left out: yuv4mpegpipe does not hold it" for name in
                     ("audio stream 1 (mp3)", "audio stream 2 (mp3)", "subtitle stream 3 (subrip)")]  # fmt: skip


def test_a_pipe_in(make_clip: MakeClip) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=0.6, sound=False)
    words = ["-", "-o", "-", *QUICK, "--multi", "1", "--max-delay", "30", "--json", "--quiet"]
    done = subprocess.run([*COMMAND, *words], input=clip.read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stderr)["frames_out"] == 6
    with av.open(io.BytesIO(done.stdout)) as opened:
        assert len(list(opened.decode(video=0))) == 6


def test_a_player_that_pauses_loses_nothing(make_clip: MakeClip) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=3)
    words = [str(clip), "-o", "-", *QUICK, "--json", "--quiet", "--max-delay", "2"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stdout is not None and job.stderr is not None
        begin = job.stdout.read(20_000)
        time.sleep(4)  # longer than the delay
        rest = job.stdout.read()
        report = json.loads(job.stderr.read())
    assert (report["frames_out"], report["held"], report["dropped"], report["skipped"]) == (60, 0, 0, 0)
    assert len(heard(av.open(io.BytesIO(begin + rest)))[1]) == len(audio_packets(clip))


def test_a_broken_pipe_is_a_clean_end(make_clip: MakeClip) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=30)
    with subprocess.Popen(
        [*COMMAND, str(clip), "-o", "-", *QUICK], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        job.stdout.read(20_000)
        job.stdout.close()
        assert job.stderr is not None
        said = job.stderr.read().decode()
        assert job.wait(20) == 0
    assert "the reader of the output went away" in said and len(said.strip().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_a_clean_end(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=30)
    target = tmp_path / "o.mkv"
    with subprocess.Popen([*COMMAND, str(clip), "-o", str(target), *QUICK], stderr=subprocess.PIPE) as job:
        for _ in range(600):
            time.sleep(0.1)
            if target.exists() and target.stat().st_size > 5000:
                break
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=20)
    assert job.returncode == 0 and b"; stopped" in said
    assert len(video_times(target)) > 1 and audio_packets(target)  # a whole file, as far as it goes


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_while_nobody_sends() -> None:
    port = free_port()
    with subprocess.Popen(
        [*COMMAND, f"tcp://127.0.0.1:{port}?listen=1", "-o", "-", *QUICK],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as job:  # fmt: skip
        until = time.monotonic() + 60
        while not is_taken(port):
            assert time.monotonic() < until and job.poll() is None
            time.sleep(0.1)
        time.sleep(0.5)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=20)
    assert job.returncode == 0 and b"stopped" in said and len(said.strip().splitlines()) == 1


class Watched:
    """When each flash and each beep came, on the stream's clock; and the flashes by the wall clock too. A flash that is
    there from the first picture on may have begun before."""

    def __init__(self, address: Any, **more: Any) -> None:
        self.flashes: list[tuple[float, float]] = []
        self.beeps: list[float] = []
        self.thread = threading.Thread(target=self._watch, args=(address, more), daemon=True)
        self.thread.start()

    def _watch(self, address: Any, more: dict[str, Any]) -> None:
        lit, beeped = True, -9.0
        try:
            with av.open(address, timeout=(20, 4), **more) as container:
                container.streams.video[0].codec_context.thread_count = 1
                for packet in container.demux(video=0, audio=0):
                    for came in packet.decode():
                        if isinstance(came, av.VideoFrame):
                            now = bool(np.frombuffer(came.planes[0], np.uint8)[:2000].mean() > 128)
                            if now and not lit:
                                self.flashes.append((came.time, time.monotonic()))
                            lit = now
                            continue
                        sound = came.to_ndarray().astype(np.float32)[0] / (
                            1 if came.format.name[:3] == "flt" else 32768
                        )
                        for sample in np.flatnonzero(np.abs(sound) > 0.1):
                            at = came.time + sample / came.sample_rate / (
                                1 if came.format.is_planar else len(came.layout.channels)
                            )
                            if at > beeped + 0.3:
                                self.beeps.append(at)
                            beeped = at
        except av.error.FFmpegError:  # silence is the end
            pass

    def offsets(self) -> list[float]:
        """Seconds from each flash to its beep; that of the last may not have come any more."""
        return [min((beep - at for beep in self.beeps), key=abs) for at, _ in self.flashes[:-1]]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("target", ["-", "udp"])
def test_delay_and_sound_of_a_udp_source(target: str, tmp_path: Path) -> None:
    """The sender's stream is watched directly, and what comes out of us: the flashes are late by what we take."""
    here, there, out = free_port(), free_port(), free_port()
    goal = "-" if target == "-" else f"udp://127.0.0.1:{out}?pkt_size=1316"
    words = [f"udp://127.0.0.1:{here}", "-o", goal, *QUICK, "--max-delay", "1", "--json", "--quiet"]
    probe = {"options": {"probesize": "500000", "analyzeduration": "500000"}}
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        assert job.stderr is not None
        direct = Watched(f"udp://127.0.0.1:{there}", **probe)
        through = (
            Watched(job.stdout, format="matroska") if target == "-" else Watched(f"udp://127.0.0.1:{out}", **probe)
        )
        sender = subprocess.Popen(
            [ffmpeg_path(), "-v", "error", "-re", "-f", "lavfi", "-i", f"testsrc2=s=160x96:r=20,{FLASH}", "-f", "lavfi",
             "-i", BEEP, "-map", "0", "-map", "1", *X264, "-g", "20", "-c:a", "mp2", "-muxdelay", "0", "-f", "tee",
             f"[f=mpegts]udp://127.0.0.1:{here}?pkt_size=1316|[f=mpegts]udp://127.0.0.1:{there}?pkt_size=1316"],
        )  # fmt: skip
        try:
            until = time.monotonic() + 60
            while len(through.flashes) < 5 and time.monotonic() < until:
                time.sleep(0.1)
            time.sleep(0.5)  # for the last beep
        finally:
            sender.kill()
            sender.wait()
            job.send_signal(signal.SIGINT)
        report = json.loads(job.stderr.read())
        through.thread.join(20)
    assert report["ended"] == "stopped" and report["generated"]
    assert len(through.flashes) >= 5
    sent = [when for _, when in direct.flashes]
    delays = [min(when - before for before in sent if before < when) for _, when in through.flashes]
    assert min(delays) < 0.6 and np.median(delays) < 1.5, delays  # a slow machine may take all of the delay
    assert max(map(abs, through.offsets())) < 0.03, through.offsets()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}?listen=1", "rtsp://127.0.0.1:{}/live?listen"])
def test_a_source_that_is_gone_in_mid_stream(address: str, tmp_path: Path) -> None:
    port, target = free_port(), tmp_path / "o.mkv"
    kind = ["-f", "mpegts"] if address.startswith("tcp") else ["-f", "rtsp", "-rtsp_transport", "tcp"]
    words = [address.format(port), "-o", str(target), *QUICK, "--json", "--quiet"]
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE) as job:
        for _ in range(600):  # until somebody listens
            time.sleep(0.1)
            sender = subprocess.Popen(
                [ffmpeg_path(), "-v", "quiet", "-re", "-f", "lavfi", "-i", f"testsrc2=s=96x64:r=10,{FLASH}",
                 "-f", "lavfi", "-i", BEEP, "-map", "0", "-map", "1", *X264, "-g", "10", "-c:a", "aac", *kind,
                 address.format(port).split("?")[0]],
            )  # fmt: skip
            try:
                sender.wait(1)
            except subprocess.TimeoutExpired:
                break
        for _ in range(600):
            time.sleep(0.1)
            if target.exists() and target.stat().st_size > 50_000:
                break
        sender.kill()
        sender.wait()
        report = json.loads(job.communicate(timeout=60)[1])
    assert job.returncode == 0 and report["ended"].startswith(("the source ended", "the source broke off"))
    assert len(video_times(target)) == report["frames_out"] > 10 and audio_packets(target)
    watched = Watched(str(target))
    watched.thread.join(20)
    assert watched.flashes and max(map(abs, watched.offsets())) < 0.03


def test_a_source_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpsgan.live.source.SILENT", 2.0)
    port, target = free_port(), tmp_path / "o.mkv"
    sender = subprocess.Popen(
        [ffmpeg_path(), "-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=10:d=6", *X264, "-g", "5", "-f",
         "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"],
    )  # fmt: skip
    report = stream(f"udp://127.0.0.1:{port}", str(target), options=OFF, max_delay=0.5)
    sender.wait()
    assert report.ended == "the source was silent for 2 s"
    assert report.waited >= 10 and len(video_times(target)) == report.frames_out  # it went on until then


def test_a_source_that_changes_its_rate_or_sets_its_clock_anew(
    make_clip: MakeClip, tmp_path: Path, piped: Callable[..., tuple[StreamReport, bytes]]
) -> None:
    slow, fast = tmp_path / "slow.ts", tmp_path / "fast.ts"
    for path, rate in ((slow, "10"), (fast, "20")):
        picture, sound = ("-f", "lavfi", "-i", f"testsrc2=s=96x64:r={rate}:d=1"), ("-f", "lavfi", "-i", "sine=d=1")
        ffmpeg(*picture, *sound, *X264, "-c:a", "mp2", str(path))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(slow.read_bytes() + fast.read_bytes())  # whose times begin anew
    report, written = piped(joined, options=Options(deblur="off", half=False, fps=Fraction(20)))
    found = heard(av.open(io.BytesIO(written)))
    assert report.frames_in == 30 and report.fps == 20 and report.frames_out == pytest.approx(40, abs=2)
    assert max(when for when, _ in found[0]) == pytest.approx(1.95, abs=0.11)
    sound = [when for when, _ in found[1]]
    assert sound == sorted(sound) and sound[-1] == pytest.approx(2, abs=0.15)


def test_damaged_packets_are_counted_and_the_rest_is_shown(make_clip: MakeClip) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=1, sound=False, encode=("-c:v", "png"))
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in (packets[3], packets[6]):
        begin = data.index(bytes(packet))
        data[begin : begin + packet.size] = bytes(packet.size)
    clip.write_bytes(data)
    source = Source(str(clip), print)
    clock = Clock(live=False, file=True)
    frames = list(source.frames(clock))
    source.close()
    assert source.damaged == 2 and 6 <= len(frames) <= 8  # the decoder may lose the one after it too


def test_effort_goes_down_in_steps_and_time_is_kept(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that, once it is tried, takes twice the time there is, and one that fits."""
    slow: set[int] = set()
    levels = module._levels

    def between(
        self: InterpolatorRunner, frame0: np.ndarray, frame1: np.ndarray, times: list[float], *_: object
    ) -> list[np.ndarray]:
        time.sleep(0.2 * self.workers if id(self) in slow else 0)
        return [frame0] * len(times)

    def tried(*given: Any) -> Any:
        deblurrer, found = levels(*given)
        slow.add(id(found[0].engines.interpolator))
        return deblurrer, found

    monkeypatch.setattr(InterpolatorRunner, "between", between)
    monkeypatch.setattr(module, "_levels", tried)
    clip = make_clip("c.mkv", rate="10", seconds=5, sound=False)
    options = Options(deblur="off", half=False, weights="interpolator-base")
    report = stream(str(clip), str(tmp_path / "o.mkv"), options=options, max_delay=1.0)
    assert report.frames_out == len(video_times(tmp_path / "o.mkv")) == pytest.approx(100, abs=2)
    assert list(report.levels)[:2] == ["interpolator-base", "interpolator-fast"]
    assert report.levels["interpolator-fast"] > 40 and 10 <= report.held < 40 and report.generated >= 10
    assert report.latency_p95 < 1.5  # the delay, and a little for a busy machine; unbounded, it would be 5 s by the end


def test_a_network_that_does_not_fit_is_not_begun_with(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blend: list[float]
) -> None:
    seconds = iter([0.15, 0.5, 0.02])  # of best, base, fast: a pair lasts 0.1 s
    monkeypatch.setattr(module, "_seconds_for_a_pair", lambda *_: next(seconds))
    clip = make_clip("c.mkv", rate="10", seconds=1, sound=False)
    options, notes = Options(deblur="off", half=False, weights="interpolator-best"), list[str]()
    report = stream(str(clip), str(tmp_path / "o.mkv"), options=options, max_delay=30, on_note=notes.append)
    assert report.levels == {"interpolator-fast": 20}
    assert notes == [
        f"interpolator-{name} takes {taken} s here for a pair of frames, which lasts 0.10 s"
        for name, taken in (("best", "0.15"), ("base", "0.50"))
    ]


def test_one_picture_that_takes_ages_does_not_stop_the_clock(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stuck(self: object, frame0: np.ndarray, frame1: np.ndarray, times: list[float], *_: object) -> list[np.ndarray]:
        asked.append(1)
        time.sleep(2.5 if len(asked) == 13 else 0)
        return [frame0] * len(times)

    monkeypatch.setattr(InterpolatorRunner, "between", stuck)
    clip = make_clip("c.mkv", rate="10", seconds=4, sound=False)
    report = stream(str(clip), str(tmp_path / "o.mkv"), options=OFF, max_delay=0.8)
    assert report.frames_out == len(video_times(tmp_path / "o.mkv")) >= 78
    assert report.held >= 10 and report.latency_p95 < 1.3


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def clock(now: list[float]) -> Clock:
    """Frame k arrived at 100 + k/10 s."""
    clock = Clock(live=True, file=False)
    for number in range(10):
        now[0] = 100 + number / 10
        clock.arrived(Fraction(number, 10))
    return clock


def effort_of(clock: Clock, *names: str, **last: bool) -> Effort:
    engines: Any = None
    levels = [Level(name, engines) for name in names]
    return Effort([*levels[:-1], levels[-1]._replace(**last)], clock, 1.0)


def test_lag_and_dropping(clock: Clock, now: list[float]) -> None:
    effort = effort_of(clock, "one")
    assert clock.lag(Fraction(9, 10)) == pytest.approx(0)
    assert clock.lag(Fraction(85, 100)) == pytest.approx(0.05)
    assert clock.come(Fraction(9, 10)) and not clock.come(Fraction(1))
    now[0] = 101.45
    assert [f.pts for f in effort.in_time(map(frame, range(10)))] == [Fraction(k, 10) for k in range(5, 10)]
    assert (effort.frames_in, effort.dropped) == (10, 5)
    clock.forget(Fraction(7, 10))
    assert clock.lag(Fraction(1, 10)) == pytest.approx(1.35)  # by what is left


def test_sources_that_wait_have_a_clock_of_their_own(now: list[float]) -> None:
    file, pipe = Clock(live=False, file=True), Clock(live=False, file=False)
    for k in range(10):  # read ahead
        file.arrived(Fraction(k))
        pipe.arrived(Fraction(k))
    assert file.lag(Fraction(4)) == pipe.lag(Fraction(4)) == -4
    now[0] += 12
    file.arrived(Fraction(10))  # late: the disk is slow, which is our trouble; a pipe's sender is another's
    pipe.arrived(Fraction(10))
    assert file.lag(Fraction(10)) == 2 and pipe.lag(Fraction(10)) == 0
    file.put_off(5)
    assert file.lag(Fraction(10)) == -3
    file.arrived(Fraction(11))
    assert file.lag(Fraction(11)) == -4


def test_effort_settles_climbs_and_tries_less_often_what_failed(clock: Clock, now: list[float]) -> None:
    effort = effort_of(clock, "best", "base", "fast")
    effort.judge(0.7)
    assert effort.level.name == "best"
    effort.judge(0.8)
    assert effort.level.name == "base"
    now[0] += 0.5
    effort.judge(0.8)
    assert effort.level.name == "base", "it has to settle first"
    now[0] += 0.6
    effort.judge(0.8)
    effort.judge(0.8)
    assert effort.level.name == "fast"
    now[0] += 3.9
    effort.judge(0.0)
    assert effort.level.name == "fast"
    now[0] += 0.2
    effort.judge(0.0)
    assert effort.level.name == "base"
    now[0] += 3.9
    effort.judge(0.0)
    assert effort.level.name == "base", "calm begins anew with each step"
    effort.judge(0.55)
    now[0] += 3.9
    effort.judge(0.0)
    assert effort.level.name == "base", "and with each late pair"
    now[0] += 0.2
    effort.judge(0.0)
    assert effort.level.name == "best"
    for pause in (8, 16, 32, 64, 64):
        now[0] += 1.1
        effort.judge(0.8)
        assert effort.level.name == "base"
        now[0] += pause - 0.1
        effort.judge(0.0)
        assert effort.level.name == "base"
        now[0] += 0.2
        effort.judge(0.0)
        assert effort.level.name == "best"


def test_what_is_held_or_halved(clock: Clock, now: list[float]) -> None:
    times = (Fraction(0), Fraction(2, 5), Fraction(4, 5))
    span = Span(frame(4), frame(5), times, 3)
    effort = effort_of(clock, "one")
    now[0] = 101.2
    assert [judged for _, judged in effort._judged([span])] == [span]
    effort._transit = 0.25  # which the pairs before took: this one would be too late
    ((_, held),) = effort._judged([span])
    assert held == Span(span.frame0, None, (Fraction(0),) * 3, 3)
    assert [(number, plan.spared) for number, plan in effort.planned.items()] == [(3, False), (4, True), (5, True)]
    now[0] = 100.9
    half = effort_of(clock, "half", halved=True)
    assert len(list(half._judged([span]))) == 1
    assert [(number, plan.spared) for number, plan in half.planned.items()] == [(3, True), (4, False), (5, True)]
    assert half._too_late(2, Span(frame(4), frame(5), (Fraction(0), Fraction(4, 5)), 3)) is False
    now[0] = 101.6
    assert half._too_late(2, Span(frame(4), frame(5), (Fraction(0), Fraction(4, 5)), 3))
    assert half.planned[6] == Planned("half", False) and half.planned[8] == Planned("half", True)
    none = effort_of(clock, "source frames", generating=False)
    assert next(none._judged([span]))[1].frame1 is None


def test_nothing_is_made_only_where_pairs_come_far_too_late(clock: Clock, now: list[float]) -> None:
    effort = effort_of(clock, "fast", "source frames", generating=False)
    effort.judge(1.4)
    assert effort.level.name == "fast"
    effort.judge(1.6)
    assert effort.level.name == "source frames"


def test_deblurring_goes_first(clock: Clock, now: list[float]) -> None:
    effort = effort_of(clock, "without")
    effort.levels.insert(0, effort.levels[0]._replace(name="deblurring", deblurring=True))
    assert not effort.too_late_to_deblur(frame(9))
    now[0] = 101.7
    assert effort.too_late_to_deblur(frame(9)), "this one"
    now[0] = 101.0
    assert not effort.too_late_to_deblur(frame(9))
    effort.judge(0.8)
    assert effort.too_late_to_deblur(frame(9)), "none, for a while"
    assert effort.not_deblurred == 2


def test_at_a_halved_level_every_second_output_is_made(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blend: list[float]
) -> None:
    levels = module._levels

    def halved(*given: Any) -> Any:
        deblurrer, found = levels(*given)
        assert [level.name for level in found] == [
            "interpolator-fast",
            "interpolator-fast for 20 frames/s",
            "source frames",
        ]
        blend.clear()
        return deblurrer, found[1:2]

    monkeypatch.setattr(module, "_levels", halved)
    clip = make_clip("c.mkv", rate="10", seconds=1, sound=False)
    options = Options(deblur="off", half=False, weights="interpolator-fast", fps=Fraction(40))
    report = stream(str(clip), str(tmp_path / "o.mkv"), options=options, max_delay=30)
    assert report.frames_out == len(video_times(tmp_path / "o.mkv")) == 40
    assert blend == [0.5] * 9 and (report.generated, report.held) == (9, 20)


def test_mistakes_are_one_line(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip("c.mkv", rate="10", seconds=0.3, sound=False)
    (tmp_path / "text").write_text("no video in here")
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.3", str(tmp_path / "sound.wav"))
    kind: type[FpsganError]
    for source, target, more, kind, message in (
        ("none.mkv", "-", {}, InputError, "none.mkv: cannot be opened"),
        (str(tmp_path / "text"), "-", {}, InputError, "cannot be opened"),
        (str(tmp_path / "sound.wav"), "-", {}, InputError, "holds no video stream"),
        (str(clip), str(tmp_path / "no" / "o.mkv"), {}, OutputError, "cannot be written to"),
        (str(clip), "-", {"max_delay": 0.01}, OptionError, "--max-delay 0.01"),
        (str(clip), "-", {"format": "avi"}, OptionError, "--format avi: must be matroska, nut or yuv4mpegpipe"),
        (str(clip), "-", {"options": Options(slowmo=Fraction(2))}, OptionError, "slowmo: a live stream knows"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message) as caught:
            stream(source, target, **{"options": OFF} | more)
        assert "\n" not in str(caught.value)
