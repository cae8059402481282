"""The training loop, for both networks: fidelity first, then, if asked for, against a discriminator.

Lightning Fabric brings the device, the precision and, under torchrun, DDP. What is learned does not depend on them:
sample number n is a pure function of the seed and n (see `fpsgan.training.data`), step s takes samples s·B to
s·B + B − 1 with B over all processes, and whatever else is random in a step is seeded by its number. A checkpoint
therefore needs no place in the data, and a run that was killed goes on as if nothing had been (to the bit on a CPU).
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from deblur.discriminator import DoubleScale
from deblur.losses import Perceptual, gan_losses, gradient_penalty
from fpsgan import weights
from fpsgan.errors import FpsganError, OptionError, OutputError, SetupError, TrainingError
from fpsgan.runtime import pick_device
from fpsgan.training.config import TrainConfig, differences
from fpsgan.training.muon import Muon
from fpsgan.training.tasks import Batch, DeblurTask, InterpolatorTask, Task
from fpsgan.video.files import whole

try:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise SetupError(f"training needs more packages ({error}): pip install 'fpsgan[train]'") from error

__all__ = ["Progress", "Trained", "learning_rate", "train"]

TASKS: dict[str, type[Task]] = {"interpolator": InterpolatorTask, "deblur": DeblurTask}
CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"

# A learning rate too high for the data shows as a run of bad steps; a single damaged batch does not.
MAX_BAD_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """After a step: `done` is the finished share of the run, `waited` the share of the time spent waiting for data."""

    step: int
    done: float
    samples_per_second: float
    waited: float
    eta: float  # seconds
    scalars: dict[str, float]
    validation: dict[str, float] = field(default_factory=dict)  # the latest


@dataclass(frozen=True)
class Trained:
    """What a run left behind. `weights` are those of the fidelity stage, `gan_weights` those of the adversarial one."""

    weights: Path | None
    gan_weights: Path | None
    steps: int
    samples: int
    minutes: float
    skipped: int  # steps whose numbers were not finite
    validation: dict[str, float]
    finished: bool  # False: interrupted; --resume goes on


def learning_rate(step: int, done: float, *, lr: float, lr_min: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps times a cosine from lr to lr_min; `done` is the share of the stage, 0..1."""
    cosine = lr_min + 0.5 * (lr - lr_min) * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
    return cosine * min(1.0, (step + 1) / max(1, warmup))


def train(
    config: TrainConfig,
    output: str | Path,
    *,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Trained:
    """Train as `config` says, into the folder `output`.

    The folder gets `<network>.safetensors` (the averaged weights that validated best in the fidelity stage),
    `<network>-gan.safetensors` (the averaged weights of the adversarial stage), checkpoint.pt, log.jsonl (one line a
    step) and TensorBoard's events. Run it under torchrun for several processes; `batch` is that of one.

    Raises OptionError if `output` holds another run, TrainingError if the gradients stay not finite (the batch is kept
    as bad-batch.pt), OutputError if it cannot be written, and what reading the data raises. Ctrl-C saves a checkpoint.
    """
    output = Path(output)
    fabric = _fabric(config)
    first = fabric.global_rank == 0
    run = _Run(config, output, fabric, on_note if first and on_note else lambda _: None)
    checkpoint = output / CHECKPOINT
    if checkpoint.exists():
        if not resume:
            raise OptionError(f"{output} holds a run already: --resume goes on with it, or choose another folder")
        run.load(checkpoint)
    elif resume:
        run.note(f"{output} holds no run yet: starting")
    if first:
        _make(output)
        _forget_after(output / LOG, run.step)
    threads = torch.get_num_threads()
    torch.set_num_threads(network_threads(config))
    try:
        run.go(on_progress if first else None)
    except KeyboardInterrupt:
        run.save()
        run.note(f"stopped at step {run.step} and saved; the same command with --resume goes on")
    finally:
        run.close()
        torch.set_num_threads(threads)
    return run.result()


def network_threads(config: TrainConfig) -> int:
    """Of torch, while it trains: each process that makes samples has a core of its own. With all cores for the network
    too, its threads wait for one another; on two cores a step took a third longer."""
    threads = torch.get_num_threads()
    return max(1, threads - config.workers) if pick_device(config.device).type == "cpu" else threads


def _fabric(config: TrainConfig) -> Fabric:
    """On the device asked for; one process of several if torchrun started us."""
    device = pick_device(config.device)
    if device.type not in ("cpu", "cuda", "mps"):
        raise OptionError(f"device: training runs on cpu, cuda or mps, not {device.type}")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce the precision
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    one: Any = [device.index] if device.type == "cuda" and device.index is not None else 1
    fabric = Fabric(
        accelerator=device.type,
        devices=local if world > 1 else one,
        num_nodes=world // local,
        # a frozen backbone has no gradients for DDP to wait for
        strategy="auto" if world == 1 else "ddp_find_unused_parameters_true" if config.freeze else "ddp",
        precision=config.precision,
    )
    fabric.launch()
    return fabric


class _Run:
    """The state of a run, and the steps that change it."""

    def __init__(self, config: TrainConfig, output: Path, fabric: Fabric, note: Callable[[str], None]) -> None:
        self.config, self.output, self.fabric, self.note = config, output, fabric, note
        self.task = TASKS[config.network](config, note)
        torch.manual_seed(config.seed)
        network = self.task.network().to(fabric.device).train()
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        optimizer = _optimizer(config, network)
        self.network = network
        self.model, self.optimizer = fabric.setup(network, optimizer)
        for name in self.task.methods:
            self.model.mark_forward_method(name)
        self.frozen = [
            p for name, p in network.named_parameters() if config.freeze and name.startswith(self.task.backbone)
        ]
        self.critic: DoubleScale | None = None  # the discriminator, from the adversarial stage on
        self.critic_since = 0
        self.perceptual = _perceptual(config, fabric.device)
        self.step = self.skipped = self.bad = 0
        self.minutes = 0.0
        self.best = -math.inf
        self.validation: dict[str, float] = {}
        self.batches: Iterator[Batch] | None = None
        self.events: Any = None
        self.lines: list[str] = []

    # --- stages and time ---

    @property
    def done(self) -> float:
        """The finished share of the run, by steps if their number is given: then it does not depend on the machine."""
        if self.config.steps is not None:
            return self.step / self.config.steps
        assert self.config.max_minutes is not None
        return self.minutes / self.config.max_minutes

    def finished(self) -> bool:
        return self.done >= 1.0

    def _interrupted(self) -> bool:
        return self.config.max_minutes is not None and self.minutes >= self.config.max_minutes

    @property
    def adversarial(self) -> bool:
        return self.config.adversarial > 0 and self.done >= 1.0 - self.config.adversarial

    # --- the loop ---

    def go(self, on_progress: Callable[[Progress], None] | None) -> None:
        if self.finished():
            self.note(f"the run in {self.output} is finished: nothing left to do")
            return
        if self.fabric.global_rank == 0:
            self.events = SummaryWriter(str(self.output), purge_step=self.step)
        self.batches = iter(self._loader())
        clock = time.perf_counter()
        saved = validated = begun = self.minutes
        start, waited = self.step, 0.0
        while not self.finished() and not self._interrupted():
            before = time.perf_counter()
            batch = {key: value.to(self.fabric.device, non_blocking=True) for key, value in self._next().items()}
            waited += time.perf_counter() - before
            if self.adversarial and self.critic is None:
                self._begin_adversarial()
            scalars = self._step(batch)
            self.step += 1
            now = time.perf_counter()
            self.minutes, clock = self.minutes + (now - clock) / 60, now
            self._record("train", scalars)
            if self.fabric.world_size > 1:  # one clock for all: it decides on rates, stages and the end
                self.minutes = self.fabric.broadcast(self.minutes)
            if self.minutes - validated >= self.config.validate_minutes and not self.finished():
                self._validate()
                validated = self.minutes
            if self.minutes - saved >= self.config.save_minutes:
                self.save()
                saved = self.minutes
            if on_progress is not None:
                seconds = max((self.minutes - begun) * 60, 1e-9)
                rate = (self.step - start) * self.config.batch * self.fabric.world_size / seconds
                left = seconds * (1 - self.done) / max(self.done - self._share(start, begun), 1e-9)
                on_progress(Progress(self.step, self.done, rate, waited / seconds, left, scalars, self.validation))
        self._validate()
        self.save()

    def _next(self) -> Batch:
        """The next batch. What a worker raises brings its traceback as text: only the message is for people."""
        assert self.batches is not None
        try:
            return next(self.batches)
        except FpsganError as error:
            kind, said = type(error), str(error).strip().splitlines()[-1]
        raise kind(said.removeprefix(f"{kind.__module__}.{kind.__name__}: "))

    def _share(self, step: int, minutes: float) -> float:
        return step / self.config.steps if self.config.steps else minutes / (self.config.max_minutes or 1)

    def _loader(self) -> DataLoader[Any]:
        workers = self.config.workers
        more: dict[str, Any] = {}
        if workers:
            # spawned: a fork of a process whose torch and OpenCV have threads may hang
            more = {"multiprocessing_context": "spawn", "prefetch_factor": 4, "worker_init_fn": _one_thread}
        return DataLoader(
            self.task.dataset(),
            batch_sampler=_Steps(self.step, self.config.batch, self.fabric.global_rank, self.fabric.world_size),
            num_workers=workers,
            pin_memory=self.fabric.device.type == "cuda",
            **more,
        )

    def _step(self, batch: Batch) -> dict[str, float]:
        config, fabric = self.config, self.fabric
        torch.manual_seed((config.seed * 1_000_003 + self.step) * fabric.world_size + fabric.global_rank)
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        if not self._in_all(all(bool(batch[name].isfinite().all()) for name in self.task.inputs)):
            return self._skip([], batch, {"loss": math.nan, "lr": rate})
        for parameter in self.frozen:
            parameter.requires_grad_(self.done >= config.freeze)
        # The norms' statistics: a bad batch must not stay in them
        kept = [buffer.clone() for buffer in self.network.buffers()]
        output = self.task.loss(self.model, batch, self.step)
        loss, scalars = output.loss, {"loss": float(output.loss.detach()), **output.scalars}
        if self.critic is not None:
            scalars["critic"] = self._criticise(output.fake.detach(), output.real, output.condition, rate)
            with fabric.autocast():
                real, fake = _judge(self.critic, output.real, output.fake, output.condition)
                judged = gan_losses(config.gan)[1](real, fake)
                looks = (
                    self.perceptual(output.fake, output.real) if self.perceptual is not None else judged.new_zeros(())
                )
            scalars |= {"gan": float(judged.detach()), "perceptual": float(looks.detach())}
            loss = config.fidelity * loss + config.gan_weight * judged + config.perceptual * looks
        scalars |= {"lr": rate, "grad_norm": math.nan}
        # Before the backward pass, too: torch's grid_sample on a CPU reads outside its memory when a flow is NaN
        if not self._in_all(bool(loss.isfinite())):
            return self._skip(kept, batch, scalars)
        self.optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        norm = fabric.clip_gradients(self.model, self.optimizer, max_norm=config.grad_clip, error_if_nonfinite=False)
        assert norm is not None
        scalars["grad_norm"] = float(norm)
        # After DDP the gradient, and so this answer, is the same in every process
        finite = math.isfinite(scalars["grad_norm"])
        if finite or config.precision == "16-mixed":  # there the scaler skips the step itself, and learns from it
            self.optimizer.step()
        if not finite:
            return self._skip(kept, batch, scalars)
        self.bad = 0
        _average(self.averaged, self.network, min(config.ema, (1 + self.step) / (10 + self.step)))
        return scalars

    def _in_all(self, mine: bool) -> bool:
        """Whether it is so in every process: either all of them go on to the backward pass, or none."""
        if self.fabric.world_size == 1:
            return mine
        return bool(self.fabric.all_reduce(torch.tensor(float(mine), device=self.fabric.device), reduce_op="mean") == 1)

    def _rate(self) -> float:
        """The learning rate: each stage has its own warm-up and cosine."""
        config, fidelity = self.config, 1.0 - self.config.adversarial
        if self.critic is None:
            share = self.done / fidelity
            return learning_rate(self.step, share, lr=config.lr, lr_min=config.lr_min, warmup=config.warmup)
        share, step = (self.done - fidelity) / config.adversarial, self.step - self.critic_since
        return learning_rate(step, share, lr=config.gan_lr, lr_min=config.gan_lr / 100, warmup=config.warmup)

    def _skip(self, kept: list[Tensor], batch: Batch, scalars: dict[str, float]) -> dict[str, float]:
        """Leave the network as it was before the step. TrainingError where that has become a habit."""
        with torch.no_grad():
            for buffer, before in zip(self.network.buffers(), kept):  # noqa: B905 (none, if the network has not run)
                buffer.copy_(before)
        self.bad += 1
        self.skipped += 1
        self.note(f"step {self.step}: the batch, the loss or its gradient is not finite; skipped")
        if self.bad >= MAX_BAD_STEPS:
            path = self.output / f"bad-batch{self.fabric.global_rank or ''}.pt"
            _write({key: value.cpu() for key, value in batch.items()}, path)
            raise TrainingError(
                f"{self.bad} steps in a row with a loss or gradient that is not finite, at step {self.step}; the batch "
                f"is in {path}. A lower lr, or --precision 32-true, is the usual cure"
            )
        return scalars

    # --- the adversarial stage ---

    def _begin_adversarial(self) -> None:
        self._validate()  # keeps the result of the first stage
        self._make_critic()
        self.critic_since = self.step
        self.note(f"step {self.step}: the adversarial stage begins")

    def _make_critic(self) -> None:
        config, fabric = self.config, self.fabric
        torch.manual_seed(config.seed + 1)
        self.critic = DoubleScale(self.task.judged, config.gan_width).to(fabric.device)
        optimizer = torch.optim.AdamW(self.critic.parameters(), lr=config.gan_lr, betas=(0.5, 0.999), weight_decay=0.0)
        self.critic_model, self.critic_optimizer = fabric.setup(self.critic, optimizer)

    def _criticise(self, fake: Tensor, real: Tensor, condition: Tensor | None, rate: float) -> float:
        """One step of the discriminator; its loss."""
        assert self.critic is not None
        self.critic.requires_grad_(True)
        for group in self.critic_optimizer.param_groups:
            group["lr"] = rate
        on_real, on_fake = _judge(self.critic_model, real, fake, condition)
        loss = gan_losses(self.config.gan)[0](on_real, on_fake)
        if self.config.gan == "wgan-gp":
            loss = loss + gradient_penalty(self.critic, real, fake, condition)
        self.critic_optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.critic_model, self.critic_optimizer, max_norm=self.config.grad_clip, error_if_nonfinite=False
        )
        if norm is not None and math.isfinite(float(norm)):
            self.critic_optimizer.step()
        self.critic.requires_grad_(False)
        return float(loss.detach())

    # --- what is written ---

    def _record(self, kind: str, scalars: dict[str, float]) -> None:
        if self.fabric.global_rank:
            return
        self.lines.append(json.dumps({"kind": kind, "step": self.step, "minutes": round(self.minutes, 4), **scalars}))
        if self.step % 20 == 0 or kind != "train":
            for name, value in scalars.items():
                self.events.add_scalar(f"{kind}/{name}", value, self.step)

    def _validate(self) -> None:
        began = time.perf_counter()
        if self.fabric.global_rank == 0:
            self.validation, pictures = self.task.validate(self.averaged)
            if self.validation:
                self._record("validate", self.validation)
            for name, picture in pictures.items():
                self.events.add_image(f"samples/{name}", picture, self.step, dataformats="HWC")
            score = next(iter(self.validation.values()), math.inf)
            if self.critic is not None:
                self._save_weights("-gan")
            elif score > self.best or score == math.inf:
                self.best = score
                self._save_weights("")
        self.fabric.barrier()
        self.minutes += (time.perf_counter() - began) / 60
        if self.fabric.world_size > 1:
            self.minutes = self.fabric.broadcast(self.minutes)

    def _save_weights(self, suffix: str) -> None:
        card = {
            "recipe": json.dumps(dataclasses.asdict(self.config)),
            "steps": str(self.step),
            "samples": str(self.step * self.config.batch * self.fabric.world_size),
            "minutes": f"{self.minutes:.1f}",
            "validation": json.dumps(self.validation),
        }
        weights.save(self._weights(suffix), self.averaged, card)

    def _weights(self, suffix: str) -> Path:
        return self.output / f"{self.config.network}{suffix}.safetensors"

    def save(self) -> None:
        """The checkpoint, whole or not at all, and the log up to it."""
        if self.fabric.global_rank:
            return
        state = {
            "config": dataclasses.asdict(self.config),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "skipped": self.skipped,
            "bad": self.bad,
            "best": self.best,
            "validation": self.validation,
        }
        if self.critic is not None:
            state["critic"] = self.critic.state_dict()
            state["critic_optimizer"] = self.critic_optimizer.state_dict()
            state["critic_since"] = self.critic_since
        _write(state, self.output / CHECKPOINT)
        try:
            with (self.output / LOG).open("a", encoding="utf-8") as log:
                log.writelines(line + "\n" for line in self.lines)
        except OSError as error:
            raise OutputError(f"{self.output / LOG}: {error.strerror or error}") from error
        self.lines = []

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. OptionError if it is of another configuration or cannot be read."""
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in state["config"].items()}
            before = TrainConfig(**fields)
        except Exception as error:  # torch raises what it likes for a damaged file
            raise OptionError(
                f"{path}: not a checkpoint of this version ({' '.join(str(error).split())[:200]})"
            ) from error
        if other := differences(self.config, before):
            raise OptionError(
                f"{path.parent} holds a run with other settings ({', '.join(other)}): give the same, or another folder"
            )
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("step", "minutes", "skipped", "bad", "best", "validation"):
            setattr(self, name, state[name])
        if "critic" in state:
            self._make_critic()
            assert self.critic is not None
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
            self.critic_since = state["critic_since"]

    def close(self) -> None:
        self.batches = None
        gc.collect()  # ends the workers now, while they can still tidy up behind them
        if self.events is not None:
            self.events.close()

    def result(self) -> Trained:
        best, gan = (path if path.exists() else None for path in (self._weights(""), self._weights("-gan")))
        samples = self.step * self.config.batch * self.fabric.world_size
        return Trained(best, gan, self.step, samples, self.minutes, self.skipped, self.validation, self.finished())


class _Steps(Sampler[list[int]]):
    """The sample numbers of each step of one process, from step `start` on, without end."""

    def __init__(self, start: int, batch: int, rank: int, world: int) -> None:
        self.start, self.batch, self.rank, self.world = start, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            begin = (step * self.world + self.rank) * self.batch
            yield list(range(begin, begin + self.batch))
            step += 1


def _one_thread(_: int) -> None:
    """In a worker: the cores belong to the network."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _perceptual(config: TrainConfig, device: torch.device) -> Perceptual | None:
    if not (config.adversarial and config.perceptual):
        return None
    try:
        return Perceptual().to(device)
    except ImportError as error:
        raise SetupError(f"{error} (or set perceptual = 0)") from error


def _optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "muon":
        return Muon(network, fine="final", weight_decay=config.weight_decay)
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr)


def _judge(
    critic: nn.Module, real: Tensor, fake: Tensor, condition: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The discriminator's maps for real and for fake, from one pass: the same crops, and one use of DDP."""
    both = critic(torch.cat((real, fake)), None if condition is None else torch.cat((condition, condition)))
    return [scale.chunk(2)[0] for scale in both], [scale.chunk(2)[1] for scale in both]


@torch.no_grad()
def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, new in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new.to(mean.dtype), 1.0 - decay)
        else:
            mean.copy_(new)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror or error})") from error


def _forget_after(log: Path, step: int) -> None:
    """Take lines of steps that the checkpoint does not have out of the log: they come again."""
    if not log.exists():
        return
    kept = [line for line in log.read_text(encoding="utf-8").splitlines(True) if json.loads(line)["step"] <= step]
    with whole(log) as part:
        part.write_text("".join(kept), encoding="utf-8")


def _write(state: dict[str, Any], path: Path) -> None:
    """torch.save, whole or not at all. OutputError if the disk is full or cannot be written."""
    try:
        with whole(path) as part, part.open("wb") as file:
            torch.save(state, file)
    except (OutputError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise OutputError(
            f"{path}: cannot be written ({' '.join(str(error).split())[:200]}); free some space and --resume"
        ) from error
