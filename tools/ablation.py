"""The ladder of DeblurGAN-v2's table 5, trained for whatever budget there is.

    python tools/ablation.py --photos DIR [--data DIR] -o runs/ablation [--steps 200] [--batch 4] [--crop 96]

Five configurations of the same generator, data, order of samples and length (Kupyn et al., ICCV 2019, section 4.5):

1. the pyramid with DeblurGAN's losses: a local judge, WGAN-GP, perceptual distance;
2. a global judge beside the local one;
3. RaGAN-LS in place of WGAN-GP;
4. a pixel loss added (theirs is MSE; ours is what `fpsgan train` knows, Charbonnier, as a share of the input's error);
5. as 4, without the perceptual distance.

The whole run is adversarial, as theirs. Scores are those of `fpsgan train`'s own validation: photos and clips that it
holds out. A budget of minutes says whether everything runs, one of days what is worth what. Finished rows are not
trained again; interrupted ones go on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from deblur.discriminator import DoubleScale
from fpsgan.training import train as training
from fpsgan.training.config import TrainConfig

# PSNR on GoPro as printed there; the fields of TrainConfig in which the rows differ
LADDER: dict[str, tuple[float, dict[str, Any]]] = {
    "FPN, local judge, WGAN-GP": (29.26, {"gan": "wgan-gp", "fidelity": 0.0}),
    "+ global judge": (29.29, {"gan": "wgan-gp", "fidelity": 0.0}),
    "+ RaGAN-LS": (29.37, {"gan": "ragan-ls", "fidelity": 0.0}),
    "+ pixel loss": (29.55, {"gan": "ragan-ls", "fidelity": 0.5}),
    "without perceptual": (28.81, {"gan": "ragan-ls", "fidelity": 0.5, "perceptual": 0.0}),
}
LOCAL_ONLY = "FPN, local judge, WGAN-GP"


class LocalJudge(DoubleScale):
    """The local judge alone."""

    def forward(self, image: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        return super().forward(image, condition)[:1]


def ladder(base: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    """Train every row into a folder of its own; a record for each: "name", "published", the validation's scores."""
    records = []
    for number, (name, (published, fields)) in enumerate(LADDER.items(), 1):
        config = dataclasses.replace(base, adversarial=1.0, losses={"charbonnier": 1.0}, **fields)
        output = folder / str(number)
        judge = LocalJudge if name == LOCAL_ONLY else DoubleScale
        with patch.object(training, "DoubleScale", judge):
            trained = training.train(
                config, output, resume=(output / training.CHECKPOINT).exists(),
                on_note=lambda text: print(text, file=sys.stderr),
            )  # fmt: skip
        records.append({"name": name, "published": published, "steps": trained.steps, **trained.validation})
        print(f"{number}/{len(LADDER)} {name}: {trained.validation}", file=sys.stderr, flush=True)
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, in the order of the paper's table."""
    scores = [key for key in records[0] if key not in ("name", "published", "steps")]
    lines = ["| | PSNR in the paper | steps | " + " | ".join(scores) + " |", "|---" * (3 + len(scores)) + "|"]
    for record in records:
        found = " | ".join(f"{record[score]:.3f}" for score in scores)
        lines.append(f"| {record['name']} | {record['published']} | {record['steps']} | {found} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos", type=Path, nargs="*", default=[], help="photos or folders of them, shaken on purpose"
    )
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="data sets (fpsgan dataset build)")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=96, help="px")
    parser.add_argument("--filters", type=int, default=64, help="width of the heads; 64 is the published one")
    parser.add_argument("--gan-width", type=int, default=64, help="width of the judges; 64 is the published one")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    base = TrainConfig(
        "deblur", data=tuple(map(str, options.data)), photos=tuple(map(str, options.photos)), steps=options.steps,
        batch=options.batch, crop=options.crop, model={"num_filters": options.filters, "undo_shake": False},
        gan_width=options.gan_width, precision=options.precision, workers=options.workers,
        warmup=min(50, options.steps // 4), ema=0.99, losses={"charbonnier": 1.0}, ramp=1,
    )  # fmt: skip
    records = ladder(base, options.output)
    (options.output / "ablation.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
