"""How much of the network's own step rate the trainer keeps: data, checks, averaging and the log included.

    python tools/measure_training.py --data DIR [--photos DIR] [--network interpolator] [--steps 40] [--rounds 3]

Rounds take turns: steps of `fpsgan train` (its defaults, one worker), and the same number of forward pass, backward
pass and optimizer step on one fixed batch. Each is timed behind five steps of warming up; the ratio of the medians is
printed. Saving and validation, which come every few minutes, are not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from fpsgan.training import train as training
from fpsgan.training.config import TrainConfig, load_config

WARM_UP = 5  # steps


def trainer(config: TrainConfig) -> float:
    """Seconds a step of a whole run."""
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = training._Run(config, Path(folder), training._fabric(config), lambda text: None)
        run._validate = lambda: None  # type: ignore[method-assign]
        run.go(lambda progress: marks.append(time.perf_counter()))
        run.close()
    return (marks[-1] - marks[WARM_UP - 1]) / (len(marks) - WARM_UP)


def alone(config: TrainConfig) -> float:
    """Seconds a step of the network on one batch."""
    with tempfile.TemporaryDirectory() as folder:
        run = training._Run(config, Path(folder), training._fabric(config), lambda text: None)
        batch = next(iter(run._loader()))
        began = time.perf_counter()
        for step in range(config.steps or 0):
            if step == WARM_UP:
                began = time.perf_counter()
            run.optimizer.zero_grad(set_to_none=True)
            run.fabric.backward(run.task.loss(run.model, batch, step).loss)
            run.optimizer.step()
    return (time.perf_counter() - began) / ((config.steps or 0) - WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="interpolator")
    parser.add_argument("--data", type=Path, nargs="*")
    parser.add_argument("--photos", type=Path, nargs="*")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    flags = {name: getattr(options, name) for name in ("network", "data", "photos", "steps")}
    config = load_config(None, {**flags, "save_minutes": 1e9, "validate_minutes": 1e9})
    found: dict[str, list[float]] = {"trainer": [], "network alone": []}
    for _ in range(options.rounds):
        found["trainer"].append(trainer(config))
        found["network alone"].append(alone(config))
    for name, seconds in found.items():
        rates = ", ".join(f"{config.batch / s:.2f}" for s in seconds)
        print(f"{name}: {config.batch / statistics.median(seconds):.2f} samples/s ({rates})")
    ratio = statistics.median(found["network alone"]) / statistics.median(found["trainer"])
    print(f"the trainer keeps {100 * ratio:.0f} %")


if __name__ == "__main__":
    main()
