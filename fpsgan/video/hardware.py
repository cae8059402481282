"""Hardware decoding and encoding of video: which kinds of device this machine has, and which of them open.

Hardware is trusted only if it gives exactly the frames that software gives (`fpsgan.video.decode.hardware_for`).
"""

from __future__ import annotations

from functools import cache

import av
import av.error
import av.logging
from av.codec.hwaccel import HWAccel, hwdevices_available

from fpsgan.video.codecs import CODECS, HARDWARE, UPLOADED, UPLOADING
from fpsgan.video.ffmpeg import encoders, run

__all__ = ["KINDS", "decoding_devices", "encoding_chips"]

# Kinds of device, in the order in which they are tried: NVIDIA; Apple; any vendor's on Windows; AMD and Intel on Linux.
# QSV is left out: the last two use the same hardware of Intel's.
KINDS = ("cuda", "videotoolbox", "d3d11va", "vaapi")
# Decoders of libav that wrap libraries without hardware support, and libav's own ones, which have it
NATIVE = {"libdav1d": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}


@cache
def decoding_devices(codec: str) -> dict[str, str]:
    """For every kind of device that this build of PyAV supports: "" if one opens, else the reason why not."""
    decoder = av.Codec(NATIVE.get(codec, codec), "r")
    offered = {config.device_type.name for config in decoder.hardware_configs if config.is_supported}
    found = {}
    for kind in KINDS:
        if kind not in offered or kind not in hwdevices_available():
            continue
        with av.logging.Capture() as said:
            try:
                HWAccel(kind).create(decoder)
                found[kind] = ""
            except av.error.FFmpegError as error:
                found[kind] = " ".join(said[0][2].split()) if said else str(error.strerror)
    return found


def encoding_chips() -> dict[str, str]:
    """For every hardware encoder in this ffmpeg: "" if a trial succeeds, else what ffmpeg printed."""
    found = {}
    for codec, (encoder, _, _, extra) in CODECS.items():
        chip = codec.partition("_")[2]
        if chip not in HARDWARE or encoder not in encoders():
            continue
        upload = ("-vf", f"format={UPLOADED[chip][0]},hwupload") if chip in UPLOADED else ("-pix_fmt", "yuv420p")
        settings = [word for name, value in extra.items() for word in (f"-{name}", str(value))]
        done = run(
            "-loglevel", "error", *UPLOADING.get(chip, ()), "-f", "lavfi", "-i", "testsrc2=s=320x256:d=0.2",
            *upload, "-c:v", encoder, *settings, "-f", "null", "-",
        )  # fmt: skip
        lines = done.stderr.strip().splitlines()
        said = lines[0].split("] ")[-1][:100] if lines else f"exit code {done.returncode}"
        found[codec] = said if done.returncode else ""
    return found
