"""How much of the network's own step rate the trainer keeps: data, checks, averaging and the log included.

    python tools/measure_training.py --data DIR [--photos DIR] [--network interpolator] [--steps 40] [--rounds 3]

Rounds take turns: steps of `fpsgan train` (its defaults, one worker), and the same number of forward pass, backward
pass and optimizer step on one fixed batch, both on the cores that `fpsgan train` leaves to the network. Each is timed
behind two steps of warming up; the ratio of the medians is printed: of wall time, and of CPU time of the process that
trains, which other work on the machine hardly touches but which does not see waiting for data. Saving and validation,
which come every few minutes, are not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from fpsgan.training import train as training
from fpsgan.training.config import TrainConfig, load_config

WARM_UP = 2  # steps

Mark = tuple[float, float]  # wall, CPU of this process: seconds


def now() -> Mark:
    return time.perf_counter(), time.process_time()


def per_step(begin: Mark, end: Mark, steps: int) -> Mark:
    return (end[0] - begin[0]) / steps, (end[1] - begin[1]) / steps


def trainer(config: TrainConfig) -> Mark:
    """Seconds a step of a whole run."""
    marks: list[Mark] = []
    with tempfile.TemporaryDirectory() as folder:
        run = training._Run(config, Path(folder), training._fabric(config), lambda text: None)
        run._validate = lambda: None
        run.go(lambda progress: marks.append(now()))
        run.close()
    return per_step(marks[WARM_UP - 1], marks[-1], len(marks) - WARM_UP)


def alone(config: TrainConfig) -> Mark:
    """Seconds a step of the network on one batch."""
    with tempfile.TemporaryDirectory() as folder:
        run = training._Run(config, Path(folder), training._fabric(config), lambda text: None)
        batch = next(iter(run._loader()))
        began = now()
        for step in range(config.steps or 0):
            if step == WARM_UP:
                began = now()
            run.optimizer.zero_grad(set_to_none=True)
            run.fabric.backward(run.task.loss(run.model, batch, step).loss)
            run.optimizer.step()
    return per_step(began, now(), (config.steps or 0) - WARM_UP)


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
    torch.set_num_threads(training.network_threads(config))
    whole, bare = [], []
    for _ in range(options.rounds):
        whole.append(trainer(config))
        bare.append(alone(config))
    for what, k in (("wall", 0), ("CPU of the process", 1)):
        one, other = (statistics.median(mark[k] for mark in marks) for marks in (whole, bare))
        print(f"{what}: {one:.3f} s a step, the network alone {other:.3f} s: {100 * other / one:.0f} % are kept")


if __name__ == "__main__":
    main()
