"""Training and measuring: dataset build, train, evaluate, report."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from fpsgan.cli.options import (
    InterpolatorWeights,
    Json,
    Machine,
    Overwrite,
    Part,
    Quiet,
    Source,
    grouped,
    of_machine,
    of_rate,
    option,
)
from fpsgan.cli.progress import Meter, tell
from fpsgan.cli.text import build_text, building_line, frames_line, json_text, table_text, training_line
from fpsgan.options import Options


def dataset_build_command(
    footage: Annotated[list[Path], typer.Argument(help="Videos, and folders that are searched for videos.")],
    output: Annotated[Path, option("Folder for the data set.", "-o", "--output")],
    min_fps: Annotated[Fraction | None, of_rate("Leave out footage with fewer new pictures a second (48).")] = None,
    length: Annotated[int | None, option("Frames of a sequence (13).")] = None,
    tile: Annotated[int | None, option("Side of a tile, px (320); smaller pictures: whole.")] = None,
    tiles: Annotated[int | None, option("Tiles of the same frames, at most (2).")] = None,
    per_source: Annotated[int | None, option("Sequences of one video, at most (500); 0: no limit.")] = None,
    max_blur: Annotated[float | None, option("Blur score from which a tile is left out (1.75); 2: none is.")] = None,
    val: Annotated[float | None, option("Share of the videos to validate on (0.1).")] = None,
    test: Annotated[float | None, option("Share of the videos to test on (0.05).")] = None,
    licence: Annotated[str | None, option("Of what no SOURCES.tsv beside it lists.")] = None,
    native: Annotated[bool, option("Tiles in the footage's own pixels; otherwise shrunk.", "--native")] = False,
    lossless: Annotated[bool, option("PNG instead of JPEG: five times as large.", "--lossless")] = False,
    pack_size: Annotated[float | None, option("MiB that a pack may have (512).")] = None,
    seed: Annotated[int | None, option("Of tiles, scales and split (0).")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a training set from high frame rate footage: cut, cleaned, measured, split by source.

    Stopped and started again, it goes on. Exit code 3: done, but some files could not be read.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("footage", "output", "overwrite", "json", "quiet"):
        del given[name]

    from fpsgan.training.build import BuildOptions, build

    try:
        with Meter(building_line, quiet=quiet) as meter:
            summary = build(
                footage, output, options=BuildOptions(**given), overwrite=overwrite, on_progress=meter,
                on_note=meter.say,
            )  # fmt: skip
    except KeyboardInterrupt:
        tell("\nstopped; the same command goes on behind the last finished video")
        sys.exit(130)
    print(json_text(summary) if json else build_text(summary))
    if summary.unreadable:
        raise typer.Exit(3)


def train_command(
    network: Annotated[str, typer.Argument(help="interpolator or deblur.")],
    output: Annotated[Path, option("Folder of the run: weights, checkpoint, log, events.", "-o", "--output")],
    config: Annotated[Path | None, option("A TOML file; the flags below overrule it.")] = None,
    data: Annotated[list[Path] | None, option("A data set (fpsgan dataset build); repeatable.")] = None,
    photos: Annotated[list[Path] | None, option("Photos or folders of them; repeatable.")] = None,
    animations: Annotated[list[Path] | None, option("Lottie files or folders of them; repeatable.")] = None,
    fine_tune: Annotated[str | None, option("Start from these weights: a name or a file.")] = None,
    steps: Annotated[int | None, option("Length of the run in steps.")] = None,
    max_minutes: Annotated[float | None, option("Length in minutes; with --steps, when to interrupt.")] = None,
    resume: Annotated[bool, option("Go on with the run in the output folder.", "--resume")] = False,
    batch: Annotated[int | None, option("Samples per step and process.")] = None,
    crop: Annotated[int | None, option("Side of a sample, px.")] = None,
    lr: Annotated[float | None, option("Highest learning rate.")] = None,
    adversarial: Annotated[float | None, option("Share of the run, at its end, against a discriminator.")] = None,
    seed: Annotated[int | None, option("Of samples and weights.")] = None,
    workers: Annotated[int | None, of_machine("Processes that make samples.")] = None,
    precision: Annotated[
        str | None, of_machine("Of the network's numbers.", values=("32-true", "bf16-mixed", "16-mixed"))
    ] = None,
    device: Annotated[str | None, of_machine("auto, cpu, cuda, mps.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on your own footage. Several processes: torchrun --nproc-per-node N -m fpsgan train …"""
    flags = dict(locals())
    for name in ("output", "config", "resume", "json", "quiet"):
        del flags[name]

    from fpsgan.training.config import load_config
    from fpsgan.training.train import train

    with Meter(training_line, quiet=quiet) as meter:
        trained = train(load_config(config, flags), output, resume=resume, on_progress=meter, on_note=meter.say)
    if int(os.environ.get("RANK", 0)):
        return
    if json:
        print(json_text(trained))
        return
    figures = ", ".join(f"{name} {value:.3f}" for name, value in trained.validation.items())
    meter.say(
        f"{trained.steps} steps, {trained.samples} samples, {trained.minutes:.1f} minutes; {figures or 'not validated'}"
    )
    for path in (trained.weights, trained.gan_weights):
        if path is not None:
            print(path)


@grouped
def evaluate_command(
    machine: Machine,
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Videos, animations, folders of them, data sets; for deblurring photos and videos.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        list[str] | None, option("Networks to score, of one kind; repeatable: a name or a file (interpolator-base).")
    ] = None,
    peer: Annotated[
        list[str] | None, option("Compare with hold, blend, minterpolate, dis (these are usual), rife; repeatable.")
    ] = None,
    every: Annotated[
        list[int] | None, option("Keep every so-many-th frame, rebuild the others; repeatable (2 and 4).")
    ] = None,
    split: Annotated[str | None, option("Of data sets: train, val or test (test, else val).")] = None,
    limit: Annotated[int, option("Images of a clip at most, from its start; 0: all.")] = 0,
    vmaf: Annotated[
        bool | None, option("VMAF; by default where an ffmpeg here has libvmaf.", "--vmaf/--no-vmaf")
    ] = None,
    output: Annotated[
        Path | None, option("Folder for table.md, results.json and page.html: curves, worst moments.", "-o", "--output")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score networks on footage: hide frames and rebuild them, or blur pictures and sharpen them."""
    from fpsgan.training.evaluate import evaluate, table

    with Meter(frames_line, quiet=quiet) as meter:
        result = evaluate(
            places, weights=weights or ("interpolator-base",), peers=peer or None, every=every or (2, 4), split=split,
            limit=limit, vmaf=vmaf, output=output, device=machine.device, half=machine.half, on_progress=meter,
            on_note=meter.say,
        )  # fmt: skip
    print(json_text(result) if json else table(result))


@grouped
def report_command(
    source: Source,
    part: Part,
    machine: Machine,
    output: Annotated[Path | None, option("The page; by default CLIP-report.html here.", "-o", "--output")] = None,
    weights: InterpolatorWeights = str(Options.weights),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell how well a clip interpolates: hide every other frame, rebuild it, compare; one HTML page to look at."""
    from fpsgan.training.report import report

    with Meter(frames_line, title=source.name, quiet=quiet) as meter:
        result = report(
            source, output or Path(f"{source.stem}-report.html"), weights=weights, overwrite=overwrite,
            device=machine.device, half=machine.half, start=part.start, end=part.end, on_progress=meter,
            on_note=meter.say,
        )  # fmt: skip
    if json:
        print(json_text(result))
        return
    print(table_text(["", "PSNR"], [[name, f"{figures['psnr']:.2f} dB"] for name, figures in result.methods.items()]))
    print(result.page)
