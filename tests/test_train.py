"""The training loop learns, resumes, keeps its best and stops on numbers that are not finite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fpsgan.training.train import MAX_BAD_STEPS, learning_rate, train


def batches(value: float = 1.0) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        x = torch.randn(16, 4, generator=generator)
        yield {"x": x, "y": x.sum(1, keepdim=True) * value}


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    loss = (model(batch["x"]) - batch["y"]).pow(2).mean()
    return loss, {"mse": float(loss.detach())}


def error(model: nn.Module) -> float:
    with torch.no_grad():
        return float(loss_fn(model, next(batches()))[0])


def test_learns_and_best_holds_the_averaged_weights(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    best = train(model, batches(), loss_fn, out=tmp_path, max_minutes=1, max_steps=300, lr=3e-2, ema=0.9)
    loaded = nn.Linear(4, 1)
    loaded.load_state_dict(torch.load(best, weights_only=True)["model"])
    assert error(loaded) < 1e-3
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kinds.count("train") == 6


def test_a_resumed_run_goes_on_from_the_last_step(tmp_path: Path) -> None:
    def run(model: nn.Module, steps: int) -> None:
        train(model, batches(), loss_fn, out=tmp_path, max_minutes=1, max_steps=steps, lr=3e-2)

    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    run(first, 100)
    run(second, 100)  # nothing is left to do: the weights are those of the checkpoint
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    run(second, 150)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 150


def test_best_is_kept_by_the_first_metric(tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0])
    train(
        nn.Linear(4, 1),
        batches(),
        loss_fn,
        out=tmp_path,
        max_minutes=1,
        max_steps=3,
        validate=lambda _: {"psnr": next(scores), "other": 9.0},
        validate_every_minutes=0,
    )
    assert torch.load(tmp_path / "best.pt", weights_only=True)["metrics"]["psnr"] == 3.0


def test_a_bad_batch_is_skipped_and_a_run_of_them_ends_training(tmp_path: Path) -> None:
    def spoil(good: int) -> Iterator[dict[str, Tensor]]:
        for index, batch in enumerate(batches()):
            yield batch if index % (good + 1) else {**batch, "y": batch["y"] * float("nan")}

    model = nn.Linear(4, 1)
    train(model, spoil(3), loss_fn, out=tmp_path / "a", max_minutes=1, max_steps=20)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with pytest.raises(RuntimeError, match=f"{MAX_BAD_STEPS} steps in a row"):
        train(model, batches(float("inf")), loss_fn, out=tmp_path / "b", max_minutes=1)


def test_learning_rate_warms_up_and_decays() -> None:
    def rate(step: int, done: float) -> float:
        return learning_rate(step, done, lr=1.0, lr_min=0.1, warmup_steps=10)

    assert rate(0, 0.0) == pytest.approx(0.1)
    assert rate(9, 0.0) == pytest.approx(1.0)
    assert rate(100, 0.5) == pytest.approx(0.55)
    assert rate(100, 1.0) == pytest.approx(0.1)
