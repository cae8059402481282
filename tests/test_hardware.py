"""Decoding and encoding on a graphics chip. None is here: pretended ones, and the real path where nothing opens."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import pytest
from av.codec.hwaccel import HWAccel
from conftest import MakeClip

from fpsgan.errors import OptionError, SetupError
from fpsgan.job import enhance
from fpsgan.options import Options
from fpsgan.rendering import Reader
from fpsgan.video import decode as decode_module
from fpsgan.video import encode as encode_module
from fpsgan.video import plan as plan_module
from fpsgan.video.codecs import CODECS, HARDWARE, EncodeOptions, choose_format
from fpsgan.video.decode import decode, hardware_for
from fpsgan.video.frame import PixelFormat
from fpsgan.video.hardware import decoding_devices, encoding_chips
from fpsgan.video.plan import plan_output
from fpsgan.video.probe import VideoInfo, probe

REFUSED = "cuda does not decode this h264 as software does: decoded in software"
INTERLEAVED = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv444p": "nv24", "yuv420p10le": "p010le"}
X264, X265 = ("-c:v", "libx264", "-bf", "3"), ("-c:v", "libx265", "-x265-params", "log-level=error")


class Chip:
    """In the place of a decoder: what the real one gives, as a chip hands it down."""

    def __init__(self, decoder: Any, spoil: bool = False) -> None:
        self.decoder, self.spoil, self.decoded = decoder, spoil, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def decode(self, packet: Any) -> list[Any]:
        pictures = []
        for picture in self.decoder.decode(packet):
            handed = picture.reformat(format=INTERLEAVED[picture.format.name])
            if self.spoil:
                luma = bytearray(handed.planes[0])
                luma[0] ^= 1
                handed.planes[0].update(bytes(luma))
            pictures.append(handed)
            self.decoded += 1
        return pictures


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> list[Chip]:
    """A machine on which "cuda" opens; those that were opened."""
    opened: list[Chip] = []
    plain = decode_module.video_decoder

    def video_decoder(video: Any, hardware: HWAccel | None = None) -> Any:
        if hardware is None:
            return plain(video)
        opened.append(Chip(plain(video)))
        return opened[-1]

    monkeypatch.setattr(decode_module, "video_decoder", video_decoder)
    monkeypatch.setattr(decode_module, "decoding_devices", lambda codec: {"vaapi": "no such file", "cuda": ""})
    return opened


def frames(info: VideoInfo, hardware: HWAccel | None = None) -> list[Any]:
    return [
        (f.pts, f.duration, f.format, f.color, *(p.tobytes() for p in f.planes))
        for f in decode(info, hardware=hardware)
    ]


@pytest.mark.parametrize(
    ("pixels", "encode"),
    [("yuv420p", X264), ("yuvj420p", X264), ("yuv444p", X264), ("yuv420p10le", X265), ("yuv420p10le", X264)],
)
def test_a_chip_gives_the_frames_that_software_gives(
    make_clip: MakeClip, chips: list[Chip], pixels: str, encode: tuple[str, ...]
) -> None:
    info = probe(make_clip(sound=False, video="testsrc2=s=98x66", encode=(*encode, "-pix_fmt", pixels)))
    told: list[str] = []
    assert (hardware_for(info, told.append), told) == ("cuda", [])
    assert frames(info, HWAccel("cuda")) == frames(info)
    assert [chip.decoded for chip in chips] == [pytest.approx(decode_module.TRIED, abs=4), 24]


def test_other_pictures_are_not_used(make_clip: MakeClip, chips: list[Chip], monkeypatch: pytest.MonkeyPatch) -> None:
    info, told = probe(make_clip()), list[str]()
    opening = decode_module.video_decoder
    monkeypatch.setattr(
        decode_module,
        "video_decoder",
        lambda video, hardware=None: Chip(opening(video), spoil=True) if hardware else opening(video),
    )
    assert hardware_for(info, told.append) == ""
    assert told == [REFUSED]


def test_a_stream_that_the_chip_refuses_is_decoded_in_software(
    make_clip: MakeClip, chips: list[Chip], monkeypatch: pytest.MonkeyPatch
) -> None:
    info, told = probe(make_clip()), list[str]()

    def refused(chip: Chip, packet: Any) -> list[Any]:
        raise av.error.FFmpegError(-22, "Invalid argument")

    monkeypatch.setattr(Chip, "decode", refused)
    assert hardware_for(info, told.append) == ""
    assert told == [REFUSED]


def test_a_damaged_file_is_left_to_software(make_clip: MakeClip, chips: list[Chip]) -> None:
    info = probe(make_clip())
    from fpsgan.video.probe import Damage

    assert hardware_for(dataclasses.replace(info, damage=(Damage("broken", Fraction(0)),)), print) == ""
    assert not chips


def test_a_job_decodes_by_the_chip_and_none_does_not(make_clip: MakeClip, chips: list[Chip], tmp_path: Path) -> None:
    clip = make_clip(video="testsrc2=s=96x64", seconds=0.5)
    results = {}
    for hwaccel in ("auto", "none"):
        chips.clear()
        target = tmp_path / f"{hwaccel}.mkv"
        options = Options(interpolate=False, deblur="off", encode=EncodeOptions("ffv1"), hwaccel=hwaccel)
        result = enhance(clip, target, options=options)
        assert not any("cuda" in note or "software" in note for note in result.notes)
        assert len(chips) == (2 if hwaccel == "auto" else 0)  # the trial and the job
        results[hwaccel] = frames(probe(target))
    assert results["auto"] == results["none"]


def test_where_no_device_opens_software_decodes_and_nothing_is_said(make_clip: MakeClip) -> None:
    """The real path: on a machine with a chip that opens, the chip's frames are compared."""
    info, told = probe(make_clip()), list[str]()
    kind = hardware_for(info, told.append)
    if not any(trouble == "" for trouble in decoding_devices("h264").values()):
        assert kind == "" and not told
    if kind:
        assert frames(info, HWAccel(kind)) == frames(info)


def test_a_device_that_opens_no_more_is_told_of_once(make_clip: MakeClip) -> None:
    """The real decoder, on a device that is not there."""
    closed = [kind for kind, trouble in decoding_devices("h264").items() if trouble]
    if not closed:
        pytest.skip("every kind of device opens here")
    info, told = probe(make_clip(sound=False)), list[str]()
    found = list(decode(info, report=told.append, hardware=HWAccel(closed[0], allow_software_fallback=True)))
    assert len(found) == 24
    assert len(told) == 1 and told[0].startswith("the chip does not open any more (")
    with pytest.raises(av.error.FFmpegError):
        list(decode(info, hardware=HWAccel(closed[0], allow_software_fallback=False)))


def test_other_values_are_refused() -> None:
    with pytest.raises(OptionError, match="--hwaccel cuda: must be auto or none"):
        Options(hwaccel="cuda")


CHIPS = [codec for codec in CODECS if codec.partition("_")[2] in HARDWARE]


def test_a_chip_that_does_not_write_is_refused_in_one_line(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip(seconds=0.25))
    closed = [codec for codec, trouble in encoding_chips().items() if trouble]
    if not closed:
        pytest.skip("this ffmpeg has no encoders for chips, or all of them work")
    for codec in closed:
        with pytest.raises(SetupError) as refused:
            plan_output(info, tmp_path / "o.mkv", EncodeOptions(codec), tmp_path, rate=info.frame_rate)
        said = str(refused.value)
        assert said.startswith(f"--codec {codec}: does not work here with 96×64 yuv420p (") and "\n" not in said
        assert f"use --codec {codec.split('_')[0]}; `fpsgan doctor`" in said


@pytest.mark.parametrize("codec", CHIPS)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
def test_the_quality_reaches_the_chip(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, pixels: str
) -> None:
    """The command of the encoder, put together without running it."""
    info = probe(make_clip(seconds=0.25, sound=False, encode=(*X265, "-pix_fmt", pixels)))
    offered = {"vaapi": ("vaapi",)}.get(codec.partition("_")[2], ("nv12", "p010le"))
    monkeypatch.setattr(plan_module, "encoders", lambda: frozenset({codec}))
    monkeypatch.setattr(plan_module, "encoder_formats", lambda encoder: offered)
    monkeypatch.setattr(plan_module, "_try", lambda plan, place: None)
    plan = plan_output(info, tmp_path / "o.mkv", EncodeOptions(codec, 33), tmp_path, rate=info.frame_rate)
    assert plan.format == PixelFormat.of(pixels)
    command = encode_module._command(plan, tmp_path / "all.nut", 0)
    flags = CODECS[codec][1].split()
    assert flags and all(command[command.index(f"-{flag}") + 1] == "33" for flag in flags)
    uploads = [word for word in command if "hwupload" in word]
    assert bool(uploads) == ("vaapi" in codec) == ("-init_hw_device" in command)
    assert all(f"format={'p010le' if '10' in pixels else 'nv12'}" in word for word in uploads)


def test_deeper_pictures_are_told_to_become_shallower(make_clip: MakeClip, tmp_path: Path) -> None:
    deep = probe(make_clip("d.mkv", seconds=0.25, encode=(*X265, "-pix_fmt", "yuv420p10le")))
    form = choose_format(deep.format, ("vaapi",), None, "hevc_vaapi")
    plan = plan_output(deep, tmp_path / "o.mkv", EncodeOptions("hevc"), tmp_path, rate=deep.frame_rate)
    said = str(encode_module.failure(dataclasses.replace(plan, codec="hevc_vaapi", format=form), "no device; more"))
    assert "(no device)" in said and "use --codec hevc, or --pix-fmt yuv420p;" in said


def test_the_reader_opens_the_devices_of_its_job(make_clip: MakeClip) -> None:
    info = probe(make_clip(seconds=0.25))
    for decoder in ("", "cuda"):
        job = type("Job", (), {"info": info, "options": Options(), "decoder": decoder, "segments": ()})()
        assert (Reader(job)._hardware is not None) == bool(decoder)  # type: ignore[arg-type]
