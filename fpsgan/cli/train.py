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
    footage: Annotated[list[Path], typer.Argument(help="Videos, or folders to search for videos.")],
    output: Annotated[Path, option("Folder for the data set.", "-o", "--output")],
    min_fps: Annotated[
        Fraction | None, of_rate("Leave out footage with fewer distinct frames per second (48).")
    ] = None,
    length: Annotated[int | None, option("Frames per sequence (13).")] = None,
    tile: Annotated[int | None, option("Side of a tile, px (320); smaller frames are taken whole.")] = None,
    tiles: Annotated[int | None, option("Most tiles from the same frames (2).")] = None,
    per_source: Annotated[int | None, option("Most sequences per video (500); 0: no limit.")] = None,
    max_blur: Annotated[float | None, option("Blur score above which a tile is left out (1.75); 2: keep all.")] = None,
    val: Annotated[float | None, option("Share of the videos for validation (0.1).")] = None,
    test: Annotated[float | None, option("Share of the videos for testing (0.05).")] = None,
    licence: Annotated[str | None, option("Licence of footage that no SOURCES.tsv lists.")] = None,
    native: Annotated[bool, option("Cut tiles at full resolution instead of shrinking.", "--native")] = False,
    lossless: Annotated[bool, option("Store PNG instead of JPEG: five times as large.", "--lossless")] = False,
    pack_size: Annotated[float | None, option("Largest pack, MiB (512).")] = None,
    seed: Annotated[int | None, option("Seed for tiles, scales and split (0).")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build a training set from high frame rate footage: cut, cleaned, measured, split by source.

    If interrupted, the same command continues. Exit code 3: done, but some files could not be read.
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
        tell("\nstopped; the same command continues after the last finished video")
        sys.exit(130)
    print(json_text(summary) if json else build_text(summary))
    if summary.unreadable:
        raise typer.Exit(3)


def train_command(
    network: Annotated[str, typer.Argument(help="interpolator or deblur.")],
    output: Annotated[
        Path, option("Folder for the run: weights, checkpoint, log, TensorBoard events.", "-o", "--output")
    ],
    config: Annotated[Path | None, option("A TOML file; flags override it.")] = None,
    data: Annotated[list[Path] | None, option("A data set made by fpsgan dataset build; repeatable.")] = None,
    photos: Annotated[list[Path] | None, option("Photos or folders of them; repeatable.")] = None,
    animations: Annotated[list[Path] | None, option("Lottie files or folders of them; repeatable.")] = None,
    fine_tune: Annotated[str | None, option("Start from these weights: a shipped name or a file.")] = None,
    steps: Annotated[int | None, option("Length of the run in steps.")] = None,
    max_minutes: Annotated[
        float | None, option("Length of the run in minutes; with --steps, pause after so long.")
    ] = None,
    resume: Annotated[bool, option("Continue the run in the output folder.", "--resume")] = False,
    batch: Annotated[int | None, option("Samples per step and process.")] = None,
    crop: Annotated[int | None, option("Side of a sample, px.")] = None,
    lr: Annotated[float | None, option("Peak learning rate.")] = None,
    adversarial: Annotated[
        float | None, option("Last share of the run (0 to 1) that trains against a discriminator.")
    ] = None,
    seed: Annotated[int | None, option("Seed for samples and initial weights.")] = None,
    workers: Annotated[int | None, of_machine("Processes that make samples.")] = None,
    precision: Annotated[
        str | None, of_machine("Numeric precision.", values=("32-true", "bf16-mixed", "16-mixed"))
    ] = None,
    device: Annotated[str | None, of_machine("auto, cpu, cuda, mps.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on your own footage. For several processes: torchrun --nproc-per-node N -m fpsgan train …"""
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
            help="Videos, animations, folders of them, or data sets; for deblurring: photos and videos.",
            show_default=False,
        ),
    ],
    weights: Annotated[
        list[str] | None,
        option("Networks to score, all of one kind: a name or a file; repeatable (interpolator-base)."),
    ] = None,
    peer: Annotated[
        list[str] | None, option("Compare with hold, blend, minterpolate, dis (the default four) or rife; repeatable.")
    ] = None,
    every: Annotated[
        list[int] | None, option("Keep every Nth frame and rebuild the others; repeatable (2 and 4).")
    ] = None,
    split: Annotated[str | None, option("Split of a data set: train, val or test (test, else val).")] = None,
    limit: Annotated[int, option("Most images per clip, from its start; 0: all.")] = 0,
    vmaf: Annotated[
        bool | None, option("Compute VMAF; default: if an ffmpeg here has libvmaf.", "--vmaf/--no-vmaf")
    ] = None,
    output: Annotated[
        Path | None, option("Folder for table.md, results.json and page.html: curves, worst moments.", "-o", "--output")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score networks: hide frames and rebuild them, or blur pictures and sharpen them."""
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
    output: Annotated[
        Path | None, option("The page; default: CLIP-report.html in the current folder.", "-o", "--output")
    ] = None,
    weights: InterpolatorWeights = str(Options.weights),
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how well a clip interpolates: hide every other frame, rebuild it, compare; writes one HTML page."""
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
