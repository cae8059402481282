"""What a clip is, in words, and what to do about it; run in a process of its own, since it reads untrusted files.

`python -m fpsgan.web.look SOURCE` prints one JSON object, or one line on standard error.
"""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from deblur.blur import blur_score
from deblur.gate import blur_strength
from fpsgan.errors import FpsganError, InputError
from fpsgan.stages.scenes import SceneDetector
from fpsgan.stages.timeline import Relation
from fpsgan.video.decode import decode
from fpsgan.video.fields import Kind, treated
from fpsgan.video.photo import kind_of
from fpsgan.video.probe import VideoInfo, probe

__all__ = ["look"]

# Containers that hold their pictures themselves. Those that refer to other files (playlists, concat scripts) could read
# any file.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,gif,apng,mxf,nut,yuv4mpegpipe,"
    "ivf,h264,hevc,av1,obu,m4v,vc1,dv,rm,webp_pipe,mjpeg,h261,h263,swf,dirac,avs2,wtv,gxf,lxf,r3d,nsv,bink,cdxl,roq,vivo"
)
SAMPLE = 48  # frames in which repeats are counted; in every fourth the blur is measured
OFTEN = 0.15  # share of repeats from which a clip counts as drawn on twos


def look(source: Path) -> dict[str, Any]:
    """Facts, words and suggestions: see `_words` and `_intents`. Raises InputError for what is not a video itself."""
    if kind_of(source) == "photo":
        raise InputError("is a photo: `fpsgan deblur` takes it")
    if source.suffix.lower() != ".webp":  # animated ones are decoded by OpenCV, which opens no other files
        _check_container(source)
    info = probe(source)
    damage = [str(each) for each in info.damage]
    held, blur = _sample(info)
    facts = {
        "width": info.width,
        "height": info.height,
        "codec": info.codec,
        "fps": float(info.frame_rate),
        "frames": info.frame_count,
        "duration": float(info.duration),
        "vfr": info.vfr,
        "scan": str(info.scan),
        "interlaced": info.scan.kind is Kind.INTERLACED,
        "film": info.scan.kind not in (Kind.PROGRESSIVE, Kind.INTERLACED),
        "hdr": info.color.hdr,
        "alpha": info.format.alpha,
        "depth": info.format.depth,
        "sound": bool(info.audio),
        "held": held,
        "blur": blur,
        "damage": damage,
    }
    intents, suggested = _intents(facts)
    return {"facts": facts, "words": _words(facts, info), "intents": intents, "suggested": suggested}


def _check_container(source: Path) -> None:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        av.open(f"file:{source.absolute()}", options=options, metadata_errors="ignore").close()
    except (av.error.FFmpegError, OSError) as error:
        raise InputError("not a video that can be read, or one that only points to other files") from error


def _sample(info: VideoInfo) -> tuple[float, float]:
    """(share of repeated frames, mean blur: 0 sharp to 1 blurred), of some frames from a third of the clip on."""
    info = treated(info, "auto", interpolate=False)
    start = info.start - info.origin + info.duration / 3
    if info.frame_count < 3 * SAMPLE:
        start = Fraction(0)
    detector = SceneDetector()
    relations: list[Relation] = []
    scores: list[float] = []
    frames = decode(info, start=start, conceal=True, report=lambda _: None)
    for number, frame in enumerate(islice(frames, SAMPLE)):
        relations.append(detector.relate(frame.luma))
        if number % 4 == 0 and min(frame.luma.shape) >= 16:
            grey = np.broadcast_to(frame.luma[..., None], (*frame.luma.shape, 3))
            scores.append(blur_strength(blur_score(grey)))
    if len(relations) < 2 or not scores:
        return 0.0, 0.0
    return relations.count(Relation.HELD) / (len(relations) - 1), float(np.mean(scores))


def _words(facts: dict[str, Any], info: VideoInfo) -> list[str]:
    """A sentence for each thing that matters, the simplest first."""
    rate = f"{facts['fps']:.6g} frames a second"
    words = [f"{facts['width']}×{facts['height']}, {facts['codec']}, {rate}, {_clock(facts['duration'])}."]
    if facts["vfr"]:
        words.append("Variable frame rate, as phones record: every frame keeps its own time, so sound stays in step.")
    if facts["interlaced"]:
        words.append(f"Interlaced ({facts['scan']}): each field becomes a moment of its own.")
    if facts["film"]:
        words.append(f"{facts['scan'].capitalize()}: the repeated fields are undone first.")
    if facts["hdr"]:
        words.append("HDR: kept, in 10 bits.")
    if facts["alpha"]:
        words.append("Has transparency.")
    if facts["held"] > OFTEN:
        words.append(
            f"{100 * facts['held']:.0f} % of its frames repeat the one before, as drawings held in animation do: "
            "they are re-spaced evenly."
        )
    if facts["blur"] > 0.6:
        words.append("Looks blurred nearly everywhere.")
    elif facts["blur"] > 0.25:
        words.append("Some of it looks blurred.")
    words += [f"Damaged: {each}." for each in facts["damage"][:3]]
    if len(facts["damage"]) > 3:
        words.append(f"And {len(facts['damage']) - 3} more damaged places.")
    words += [f"{note[:1].upper()}{note[1:]}." for note in info.notes]
    if not facts["sound"]:
        words.append("No sound.")
    return words


def _intents(facts: dict[str, Any]) -> tuple[dict[str, dict[str, str]], str]:
    """Options of the command line by intent, and the intent that suits the clip best."""
    conceal = {"on_error": "conceal"} if facts["damage"] else {}
    intents = {
        "smoother": {"deblur": "off", "fps": "60" if facts["fps"] <= 40 else "120"} | conceal,
        "rescue": {"deblur": "auto"} | conceal,
        "slowmo": {"deblur": "auto", "slowmo": "4" if facts["fps"] >= 24 else "2"} | conceal,
    }
    if facts["held"] > OFTEN:
        return intents, "smoother"
    if facts["blur"] > 0.25:
        return intents, "rescue"
    return intents, "slowmo" if facts["fps"] >= 50 else "smoother"


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    try:
        print(json.dumps(look(Path(sys.argv[1]))))
    except FpsganError as problem:
        sys.exit(f"fpsgan: {problem}")
