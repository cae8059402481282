"""Facts about files, the machine, weights and unfinished jobs: probe, doctor, weights, export, jobs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Annotated

import av
import typer

from fpsgan import __version__
from fpsgan.cli.options import Json, Overwrite, Source, StreamIndex, option
from fpsgan.cli.text import clock_text, json_text, probe_text, size_text, table_text
from fpsgan.errors import OptionError
from fpsgan.video.codecs import CODECS
from fpsgan.video.ffmpeg import encoders, ffmpeg_path, ffmpeg_version
from fpsgan.video.files import discard
from fpsgan.video.hardware import decoding_devices, encoding_chips
from fpsgan.video.probe import probe

PACKAGES = ("torch", "numpy", "pillow", "pi-heif", "opencv-python-headless", "av", "ffmpeg-python", "imageio-ffmpeg",
            "safetensors", "numba")  # fmt: skip


def probe_command(source: Source, stream: StreamIndex = None, json: Json = False) -> None:
    """Show what a file really contains: frame rate, variable timing, rotation, colour, other streams, damage."""
    info = probe(source, stream=stream)
    if not json:
        print(probe_text(info))
        return
    record = dataclasses.asdict(info)
    del record["presentation"]  # every frame's time
    record["damage"] = [str(damage) for damage in info.damage]
    print(json_text(record))


def doctor_command() -> None:
    """Check this machine: ffmpeg, encoders, hardware decoding, devices, memory, weights."""
    import torch

    from fpsgan import weights
    from fpsgan.interpolator import kernels
    from fpsgan.runtime import memory, pick_device, pick_dtype

    print(f"fpsgan {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        print(f"  {package} {importlib.metadata.version(package)}")
    print(f"ffmpeg {ffmpeg_version()} at {ffmpeg_path()}, with")
    available, chips = encoders(), encoding_chips()
    for codec, (encoder, *_) in CODECS.items():
        trouble = chips.get(codec, "") if encoder in available else f"{encoder} is not in this build"
        print(f"  {codec}: {f'no ({trouble})' if trouble else 'yes'}")
    device = pick_device()
    engine = "torch" if device.type != "cpu" else "cpu"
    dtype, threads = pick_dtype(device, None), torch.get_num_threads()
    print(f"device {device} in {dtype}, {threads} CPU threads; --engine auto takes {engine}")
    size = memory(device)
    print(f"memory of {device}: {size_text(size) if size else 'this system does not tell'}")
    for codec in ("h264", "hevc", "vp9", "av1"):
        devices = decoding_devices(codec) or {"none": "no kind of chip is in this build of PyAV"}
        said = [f"{kind}: {f'no ({trouble})' if trouble else 'yes'}" for kind, trouble in devices.items()]
        print(f"decoding {codec} on {', '.join(said)}")
    nowhere = "nowhere, so that every run compiles for some seconds; set NUMBA_CACHE_DIR to a folder"
    print(f"compiled code is kept in {kernels.kept() or nowhere}")
    print(f"PyAV with libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")
    for name in weights.bundled():
        print(f"weights {name}: sha256 {weights.verify(name)[:16]}… ok")
    print("all is well")


def export_command(
    weights: Annotated[str, typer.Argument(help="A shipped name or a .safetensors file.")],
    output: Annotated[Path, option("The .onnx file to write.", "-o", "--output")],
    size: Annotated[str | None, option("Frame size, for the interpolator only, such as 1920x1080.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export weights as ONNX for other programs (docs/embedding.md)."""
    from fpsgan.export import export

    sides = None
    if size is not None:
        width, _, height = size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise OptionError(f"--size {size}: write width and height, such as 1920x1080")
        sides = int(width), int(height)
    print(export(weights, output, size=sides, overwrite=overwrite))


def weights_list() -> None:
    """List the shipped weights."""
    from fpsgan import weights

    facts = {name: (weights.metadata(name), path.stat().st_size) for name, path in weights.bundled().items()}
    rows = [
        [name, fact["architecture"], f"{fact['parameters'] / 1e6:.2f} M", size_text(size)]
        for name, (fact, size) in facts.items()
    ]
    print(table_text(["name", "network", "parameters", "file"], rows))


def weights_show(name: Annotated[str, typer.Argument(help="A shipped name or a .safetensors file.")]) -> None:
    """Print the metadata of a weights file."""
    from fpsgan import weights

    print(json_text(weights.metadata(name)))


def weights_verify() -> None:
    """Check the SHA-256 of the shipped weights."""
    from fpsgan import weights

    for name in weights.bundled():
        print(f"{name}: {weights.verify(name)} ok")


def weights_convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="fpn_inception.h5, fpn_mobilenet.h5, or one trained the same way.")
    ],
    output: Annotated[Path, option("The .safetensors file to write.", "-o", "--output")],
    norm: Annotated[
        str,
        option(
            "Normalisation statistics: instance (per picture, as the authors do) or running.",
            values=("instance", "running"),
        ),
    ] = "instance",
    overwrite: Overwrite = False,
) -> None:
    """Convert a published DeblurGAN-v2 checkpoint into weights for --deblur-weights."""
    from fpsgan import weights

    print(weights.convert(checkpoint, output, norm=norm, overwrite=overwrite))


Folder = Annotated[Path, option("Folder that holds the outputs.", "--in", metavar="<folder>")]


def jobs_list(context: typer.Context, folder: Folder = Path()) -> None:
    """List unfinished jobs with outputs in a folder: finished segments, size, age."""
    if context.invoked_subcommand is not None:
        return
    from fpsgan.segments import unfinished

    left = list(unfinished(folder))
    for job in left:
        print(
            f"{job.target}: {job.segments} segments finished, {size_text(job.size)}, {clock_text(job.age)} ago; "
            "run the same command to resume"
        )
    if not left:
        print(f"no unfinished job in {folder.absolute()}")


def jobs_clean(folder: Folder = Path()) -> None:
    """Delete what unfinished jobs have left in a folder. Running jobs are not touched."""
    from fpsgan.segments import unfinished

    for job in list(unfinished(folder)):
        discard(job.place)
        print(f"{job.target}: {job.segments} segments removed, {size_text(job.size)}")
