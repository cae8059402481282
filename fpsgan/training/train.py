"""The training loop: one function for any network, loss and stream of batches.

Both networks of fpsGAN are trained by :func:`train`. It knows nothing of video: the caller brings the model,
an endless iterator of batches and a loss function. AdamW (Loshchilov and Hutter 2019), linear warm-up then
cosine decay over the time box or the step count, an exponential moving average (EMA) of the weights, which is
what gets validated and shipped, and a checkpoint from which an interrupted run goes on.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Batch", "learning_rate", "train"]

Batch = dict[str, Tensor]
LossFn = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, float]]]
Validate = Callable[[nn.Module], dict[str, float]]

# A learning rate too high for the data shows as a run of bad steps; a single damaged batch does not.
MAX_BAD_STEPS = 20


def learning_rate(step: int, done: float, *, lr: float, lr_min: float, warmup_steps: int) -> float:
    """Linear warm-up times a cosine from lr to lr_min; done is the finished share of the run, 0..1."""
    cosine = lr_min + 0.5 * (lr - lr_min) * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
    return cosine * min(1.0, (step + 1) / max(1, warmup_steps))


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    loss_fn: LossFn,
    *,
    out: Path,
    max_minutes: float,
    max_steps: int | None = None,
    lr: float = 2e-4,
    lr_min: float = 2e-6,
    warmup_steps: int = 200,
    weight_decay: float = 1e-4,
    optimizer: torch.optim.Optimizer | None = None,
    grad_clip: float = 1.0,
    ema: float = 0.999,
    validate: Validate | None = None,
    validate_every_minutes: float = 5.0,
    save_every_minutes: float = 2.0,
    log_every_steps: int = 50,
    resume: bool = True,
) -> Path:
    """Trains model until max_minutes (of training, over all resumed runs) or max_steps are reached.

    Args:
        model: trained in place, on the device where it lies; batches are moved there.
        batches: endless iterator of dicts of tensors. Its order is not part of the checkpoint: after a resume
            it starts as the caller made it.
        loss_fn: (model, batch) -> (scalar loss, scalars to log).
        out: folder for last.pt (everything needed to go on), best.pt and log.jsonl.
        max_minutes: minutes spent in this loop, validation included.
        lr, lr_min, warmup_steps: see learning_rate. The share done is that of steps if max_steps is given and
            further along than the minutes.
        optimizer: instead of AdamW over all parameters; the rate of a group is multiplied with its "scale".
        ema: decay of the averaged weights; lower in the first steps, so that the start is forgotten.
        validate: called with the EMA model in eval mode, at intervals and at the end; its first value
            decides the best (higher is better). Without it, best.pt is the last EMA.
        resume: go on from out/last.pt if it is there.

    Returns:
        The path of out/best.pt: {"model": EMA state dict, "step", "metrics"}.

    Raises:
        RuntimeError: after MAX_BAD_STEPS losses or gradients in a row that are not finite.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    last, best = out / "last.pt", out / "best.pt"
    device = next(model.parameters()).device
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = optimizer or torch.optim.AdamW(groups, lr=lr)
    step, minutes, bad, best_score = 0, 0.0, 0, -math.inf

    if resume and last.exists():
        state = torch.load(last, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, minutes, best_score = state["step"], state["minutes"], state["best_score"]
        torch.set_rng_state(state["rng"].cpu())
        random.setstate(state["python_rng"])

    def record(kind: str, values: dict[str, float]) -> None:
        with (out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"kind": kind, "step": step, "minutes": round(minutes, 3), **values}) + "\n")

    def save_last() -> None:
        state = {
            "model": model.state_dict(),
            "ema": averaged.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "minutes": minutes,
            "best_score": best_score,
            "rng": torch.get_rng_state(),
            "python_rng": random.getstate(),
        }
        _save(state, last)

    def check() -> None:
        nonlocal best_score
        metrics = validate(averaged) if validate else {}
        score = next(iter(metrics.values()), math.inf)
        if metrics:
            record("validate", metrics)
        if score > best_score or not best.exists() or not metrics:
            best_score = score if metrics else best_score
            _save({"model": averaged.state_dict(), "step": step, "metrics": metrics}, best)

    def finished() -> bool:
        return minutes >= max_minutes or (max_steps is not None and step >= max_steps)

    model.train()
    clock = time.monotonic()
    saved = checked = minutes
    sums: dict[str, float] = {}
    counted = 0
    while not finished():
        batch = {k: v.to(device, non_blocking=True) for k, v in next(batches).items()}
        done = max(minutes / max_minutes, step / max_steps if max_steps else 0.0)
        rate = learning_rate(step, done, lr=lr, lr_min=lr_min, warmup_steps=warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        loss, scalars = loss_fn(model, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        finite = math.isfinite(float(loss.detach())) and math.isfinite(float(norm))
        bad = 0 if finite else bad + 1
        step += 1
        now = time.monotonic()
        minutes, clock = minutes + (now - clock) / 60, now
        if finite:
            optimizer.step()
            _average(averaged, model, min(ema, (1 + step) / (10 + step)))
            for key, value in {"loss": float(loss.detach()), "grad_norm": float(norm), **scalars}.items():
                sums[key] = sums.get(key, 0.0) + float(value)
            counted += 1
        else:
            record("bad_step", {"in_a_row": bad})
            if bad >= MAX_BAD_STEPS:
                raise RuntimeError(f"{bad} steps in a row with a loss or gradient not finite, at step {step}")
        if counted and step % log_every_steps == 0:
            record("train", {"lr": rate, **{k: v / counted for k, v in sums.items()}})
            sums, counted = {}, 0
        if validate and minutes - checked >= validate_every_minutes and not finished():
            check()
            now = time.monotonic()
            minutes, clock = minutes + (now - clock) / 60, now
            checked = minutes
        if minutes - saved >= save_every_minutes:
            save_last()
            saved = minutes
    check()
    save_last()
    return best


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new.to(mean.dtype), 1.0 - decay)
        else:
            mean.copy_(new)


def _save(state: dict[str, Any], path: Path) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
