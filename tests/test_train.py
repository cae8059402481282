"""Training: what it is told, what it does to a network, and what it survives."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fpsgan import weights
from fpsgan.errors import InputError, OptionError, OutputError, TrainingError, WeightsError
from fpsgan.interpolator import Interpolator
from fpsgan.training import train as training
from fpsgan.training.config import TrainConfig, load_config
from fpsgan.training.manifest import Clip, write_manifest
from fpsgan.training.tasks import InterpolatorTask
from fpsgan.training.train import Trained, learning_rate, train

SMALL = {"encoder": [8, 8, 8], "decoder": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "handed_down": 8}
SIDE = 128


def texture(seed: int, side: int) -> np.ndarray:
    """Smooth colour noise, [side,side,3] uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set: six sequences of nine frames that slide by 3 px a frame; one of them for validation."""
    folder = tmp_path_factory.mktemp("data")
    clips = []
    for number in range(6):
        wide = texture(number, SIDE + 32)
        code = b""
        offsets = [0]
        for k in range(9):
            frame = wide[8 : 8 + SIDE, 3 * k : 3 * k + SIDE]
            code += cv2.imencode(".png", frame)[1].tobytes()
            offsets.append(len(code))
        (folder / f"{number}.bin").write_bytes(code)
        split = "val" if number == 5 else "train"
        clips.append(
            Clip(f"clip{number}", f"{number}.mp4", split, 9, SIDE, SIDE, pack=f"{number}.bin", offsets=tuple(offsets))
        )
    write_manifest(folder, clips)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), texture(number, 256))
    return folder


def config(data: Path, **more: Any) -> TrainConfig:
    flags = {"network": "interpolator", "data": [str(data)], "crop": 64, "batch": 2, "workers": 0, "model": SMALL}
    return load_config(None, {**flags, "steps": 6, "warmup": 2, "device": "cpu", **more})


def losses(folder: Path) -> list[float]:
    """The loss of every step, in order; each step once."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    return [line["loss"] for line in found]


def same(one: Path, other: Path) -> bool:
    a, b = (torch.load(path / "checkpoint.pt", weights_only=True)["network"] for path in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


# --- the config ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"bach": 4}, "no option 'bach'; batch is meant"),
        ({"batch": "4"}, "batch: a whole number is needed, not '4'"),
        ({"batch": 0}, "batch: must be above 0"),
        ({"crop": 100}, "crop: a multiple of 32"),
        ({"steps": None}, "how long"),
        ({"losses": {"laplace": 1}}, "losses: 'laplace' is not known"),
        ({"losses": {"flow": 0}}, "losses: at least one"),
        ({"adversarial": 2}, "adversarial: a share from 0 to 1"),
        ({"precision": "fp8"}, "precision: 'fp8' is not known"),
        ({"lr": 1e-4, "lr_min": 1e-3}, "lr_min"),
        ({"network": "upscaler"}, "network: 'upscaler' is not known"),
        ({"model": {"stems": 3}}, "model: "),
        ({"fine_tune": "interpolator-base"}, "fine_tune"),
        ({"model": {"prior": "fastest"}}, "prior 'fastest': allowed are quick, base"),
        ({"network": "deblur", "animations": ["a.json"], "model": {}}, "animations: only the interpolator"),
        ({"holds": "yes"}, "holds: true or false is needed"),
        ({"freeze": 0.5}, "freeze: only the deblurring network"),
        ({"lr": 0}, "lr: must be above 0, not 0"),
        ({"ema": -0.1}, "ema: must be 0 or more, not -0.1"),
        ({"losses": {"flow": -1}}, "losses: flow: must be 0 or more, not -1"),
        ({"losses": {"flow": "much"}}, "losses: flow: a number is needed, not 'much'"),
        ({"model": "small"}, "model: a table is needed, not 'small'"),
        ({"photos": "here"}, "photos: a list of paths is needed, not 'here'"),
        ({"device": 1}, "device: a text is needed, not 1"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(tmp_path: Path, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        config(tmp_path, **flags)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_must_be_data() -> None:
    with pytest.raises(OptionError, match="nothing to train on"):
        load_config(None, {"network": "interpolator", "steps": 1})
    with pytest.raises(OptionError, match="network is missing: interpolator or deblur"):
        load_config(None, {"steps": 1})


def test_a_file_is_overruled_by_flags_and_brings_its_own_paths(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('network = "deblur"\nphotos = "pictures"\nsteps = 10\nlr = 1\n[losses]\ncharbonnier = 2\n')
    found = load_config(file, {"network": "deblur", "steps": 20, "batch": None})
    assert (found.steps, found.lr, found.photos) == (20, 1.0, (str(tmp_path / "pictures"),))
    assert found.losses == {"charbonnier": 2}
    assert found.optimizer == "muon"  # the network's own default
    for text, said in [
        ("steps = ", "not TOML"),
        ("stepz = 3", "there is no option 'stepz'; steps is meant"),
        ("steps = 3\nphotos = 'pictures'\nmax_gap = 1", "max_gap: must be 2 or more, not 1"),
    ]:
        file.write_text(text)
        with pytest.raises(OptionError, match=said):
            load_config(file, {"network": "deblur"})
    with pytest.raises(InputError, match="No such file"):
        load_config(tmp_path / "none.toml", {})
    file.write_text('network = "deblur"')
    with pytest.raises(OptionError, match="is for the deblur, not the interpolator"):
        load_config(file, {"network": "interpolator"})


def test_rate_warms_up_and_falls_on_a_cosine() -> None:
    def rate(step: int, done: float) -> float:
        return learning_rate(step, done, lr=1.0, lr_min=0.1, warmup=10)

    assert rate(0, 0.0) == pytest.approx(0.1)
    assert rate(9, 0.0) == pytest.approx(1.0)
    assert rate(100, 0.5) == pytest.approx(0.55)
    assert rate(100, 1.0) == rate(100, 2.0) == pytest.approx(0.1)


# --- a run ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_weights_that_load(data: Path, tmp_path: Path) -> None:
    seen: list[training.Progress] = []
    result = train(config(data), tmp_path / "run", on_progress=seen.append)
    assert (result.steps, result.samples, result.finished, result.skipped) == (6, 12, True, 0)
    assert {"psnr", "ssim", "gain"} <= set(result.validation)
    assert [progress.step for progress in seen] == list(range(1, 7))
    assert seen[-1].done == 1.0
    assert result.weights is not None
    network = weights.load(result.weights, expect="interpolator")
    assert isinstance(network, Interpolator)
    assert network.config.handed_down == 8
    card = weights.metadata(result.weights)["card"]
    assert card["samples"] == "12"
    assert json.loads(card["recipe"])["crop"] == 64
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_it_learns(data: Path, tmp_path: Path) -> None:
    """On one sliding texture without the prior, the loss falls."""
    result = train(config(data, steps=60, drop_prior=1.0, lr=3e-3, ema=0.9), tmp_path)
    found = losses(tmp_path)
    assert np.mean(found[-10:]) < np.mean(found[:10]) - 0.05
    assert result.finished


def test_a_folder_is_not_overwritten_and_settings_must_agree(data: Path, tmp_path: Path) -> None:
    train(config(data), tmp_path)
    with pytest.raises(OptionError, match="holds a run already: --resume"):
        train(config(data), tmp_path)
    with pytest.raises(OptionError, match=r"other settings \(crop, lr\)"):
        train(config(data, crop=96, lr=1e-4), tmp_path, resume=True)
    notes: list[str] = []
    assert train(config(data, max_minutes=9.0), tmp_path, resume=True, on_note=notes.append).steps == 6
    assert any("nothing left to do" in note for note in notes)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(OptionError, match="not a checkpoint"):
        train(config(data), tmp_path, resume=True)


def test_minutes_interrupt_a_run_that_has_steps(data: Path, tmp_path: Path) -> None:
    cut_short = train(config(data, steps=40, max_minutes=0.002), tmp_path / "a")
    assert not cut_short.finished
    assert 0 < cut_short.steps < 40
    train(config(data, steps=40), tmp_path / "a", resume=True)
    train(config(data, steps=40), tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "b")


SCRIPT = """
import sys, torch
from pathlib import Path
from fpsgan.training.config import load_config
from fpsgan.training.train import train
torch.set_num_threads(1)
flags = eval(sys.argv[2])
train(load_config(None, flags), sys.argv[1], resume=True, on_progress=lambda p: print(p.step, flush=True))
"""


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_killed_and_resumed_is_as_if_nothing_had_been(data: Path, tmp_path: Path, adversarial: float) -> None:
    """SIGKILL in the middle; the curve and the weights equal an uninterrupted run's to the bit."""
    flags = {
        "network": "interpolator", "data": [str(data)], "crop": 64, "batch": 2, "workers": 1, "model": SMALL,
        "steps": 20, "warmup": 2, "device": "cpu", "save_minutes": 0.003, "adversarial": adversarial, "perceptual": 0.0,
        "gan_width": 8,
    }  # fmt: skip

    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), repr(flags)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 10:
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    saved = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < saved <= 11
    for folder in ("killed", "whole"):
        train(load_config(None, flags), tmp_path / folder, resume=True)
    assert len(losses(tmp_path / "whole")) == 20
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert same(tmp_path / "killed", tmp_path / "whole")


def poisoned(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Let the prior of the batches at some steps be NaN, in every other one of them the loss instead."""
    ask, draw = InterpolatorTask.loss, InterpolatorTask.dataset

    def loss(self: InterpolatorTask, model: Any, batch: dict[str, torch.Tensor], step: int) -> Any:
        output = ask(self, model, batch, step)
        return dataclasses.replace(output, loss=output.loss * float("inf")) if step in bad and step % 2 else output

    def dataset(self: InterpolatorTask) -> Any:
        class Poisoned(torch.utils.data.Dataset[Any]):
            good = draw(self)

            def __getitem__(self, index: int) -> Any:
                step = index // 2
                sample = self.good[index]
                if step in bad and step % 2 == 0:
                    sample = {**sample, "flow01": sample["flow01"] * np.float32(np.nan)}
                return sample

        return Poisoned()

    monkeypatch.setattr(InterpolatorTask, "loss", loss)
    monkeypatch.setattr(InterpolatorTask, "dataset", dataset)


def test_a_poisoned_batch_does_no_harm(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, {2, 3})
    notes: list[str] = []
    result = train(config(data), tmp_path, on_note=notes.append)
    assert (result.steps, result.skipped) == (6, 2)
    assert sum("not finite; skipped" in note for note in notes) == 2
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for part in ("network", "averaged"):
        assert all(value.isfinite().all() for value in state[part].values())
    assert np.isfinite(losses(tmp_path)[4:]).all()


def test_norm_statistics_survive_a_poisoned_batch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpsgan.training.tasks import DeblurTask

    ask = DeblurTask.loss

    def loss(self: DeblurTask, model: Any, batch: dict[str, torch.Tensor], step: int) -> Any:
        if step == 1:
            batch = {**batch, "blurred": batch["blurred"].float() * float("inf")}
        return ask(self, model, batch, step)

    monkeypatch.setattr(DeblurTask, "loss", loss)
    flags = {"network": "deblur", "photos": [str(photos)], "crop": 64, "batch": 2, "workers": 0, "steps": 3}
    result = train(load_config(None, {**flags, "model": {"num_filters": 8}, "device": "cpu"}), tmp_path)
    assert result.skipped == 1
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    assert all(value.isfinite().all() for value in state.values())


def test_a_run_that_only_fails_stops_and_keeps_the_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, set(range(100)))
    notes: list[str] = []
    with pytest.raises(TrainingError, match=r"20 steps in a row .*bad-batch.pt"):
        train(config(data, steps=100), tmp_path, on_note=notes.append)
    assert len([note for note in notes if "not finite; skipped" in note]) == 20
    assert torch.load(tmp_path / "bad-batch.pt", weights_only=True)["frame0"].shape == (2, 3, 64, 64)


def test_full_disk_is_said_and_the_last_checkpoint_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(data, steps=40, max_minutes=0.001), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(config(data, steps=40), tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_both_stages_leave_their_result(data: Path, tmp_path: Path) -> None:
    result = train(config(data, adversarial=0.5, perceptual=0.0, gan_weight=0.1, gan_width=8), tmp_path)
    assert result.weights is not None
    assert result.gan_weights is not None
    one, other = (weights.load(path).state_dict() for path in (result.weights, result.gan_weights))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    critics = ["critic" in line for line in lines if line["kind"] == "train"]
    assert critics == [False] * 3 + [True] * 3


@pytest.mark.parametrize("gan", ["ragan-ls", "lsgan", "wgan-gp"])
def test_gradients_stay_finite_against_a_discriminator(data: Path, tmp_path: Path, gan: str) -> None:
    result = train(
        config(data, steps=8, adversarial=0.99, gan=gan, perceptual=0.0, gan_weight=1.0, gan_lr=1e-3, gan_width=8),
        tmp_path,
    )
    assert result.skipped == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [line[name] for line in lines for name in ("grad_norm", "critic", "gan") if name in line]
    assert len(found) > 20
    assert np.isfinite(found).all()


def test_fine_tuning_starts_from_the_weights(data: Path, tmp_path: Path) -> None:
    first = train(config(data), tmp_path / "first")
    again = config(data, model={}, fine_tune=str(first.weights), lr=1e-9, lr_min=0.0, steps=1)
    second = train(again, tmp_path / "second")
    one, other = (weights.load(result.weights).state_dict() for result in (first, second) if result.weights)
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)
    with pytest.raises(WeightsError, match="deblur network, but interpolator weights are needed"):
        train(config(data, model={}, fine_tune="deblur-mobilenet"), tmp_path / "third")


@pytest.mark.parametrize(("threads", "workers", "left"), [(4, 0, 4), (4, 1, 3), (1, 1, 1)])
def test_workers_have_cores_of_their_own(data: Path, tmp_path: Path, threads: int, workers: int, left: int) -> None:
    seen, before = [], torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        chosen = config(data, workers=workers, steps=1)
        train(chosen, tmp_path, on_progress=lambda progress: seen.append(torch.get_num_threads()))
        assert seen and set(seen) == {left}
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_deblur_trains_on_photos_and_footage(data: Path, photos: Path, tmp_path: Path) -> None:
    flags = {
        "network": "deblur", "data": [str(data)], "photos": [str(photos)], "crop": 64, "batch": 2, "workers": 0,
        "steps": 3, "model": {"num_filters": 8}, "device": "cpu",
    }  # fmt: skip
    result: Trained = train(load_config(None, flags), tmp_path)
    assert result.weights is not None
    assert weights.metadata(result.weights)["architecture"] == "deblur"
    assert "gain" in result.validation


def test_a_frozen_backbone_stays_and_then_learns(photos: Path, tmp_path: Path) -> None:
    """Two of four steps without it; the rest of the network learns from the first."""
    flags = {
        "network": "deblur", "photos": [str(photos)], "crop": 64, "batch": 2, "workers": 0, "steps": 4, "freeze": 0.5,
        "model": {"num_filters": 8}, "device": "cpu", "precision": "32-true", "weight_decay": 0.0,
    }  # fmt: skip
    states = []
    given = load_config(None, flags)
    run = training._Run(given, tmp_path, training._fabric(given), print)
    loader = iter(run._loader())
    for _ in range(4):
        states.append({name: value.clone() for name, value in run.network.named_parameters()})
        run._step(next(loader))
        run.step += 1
    states.append(dict(run.network.named_parameters()))
    for step in range(4):
        moved = {n.startswith("fpn.enc") for n in states[0] if not torch.equal(states[step][n], states[step + 1][n])}
        assert moved == ({False} if step < 2 else {False, True})


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "manifest.jsonl").unlink(), "dataset build"),
        (lambda folder: (folder / "manifest.jsonl").write_text(""), "empty"),
        (lambda folder: (folder / "manifest.jsonl").write_text("{}"), "line 1"),
    ],
)
def test_broken_data_is_said_in_one_line(tmp_path: Path, break_it: Any, said: str) -> None:
    write_manifest(tmp_path, [Clip("a", "a", "train", 1, 64, 64, frames=("a.png",))])
    break_it(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        train(config(tmp_path), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_too_little_data_is_said(tmp_path: Path) -> None:
    write_manifest(tmp_path, [Clip("a", "a", "train", 1, 64, 64, frames=("a.png",))])
    with pytest.raises(InputError, match="1 sequences to train on, 4 are the least"):
        train(config(tmp_path), tmp_path / "run")


def test_two_processes_give_the_gradients_of_a_doubled_batch(data: Path, tmp_path: Path) -> None:
    """gloo on the CPU under torchrun; AdamW's first moment after one step is a tenth of the gradient."""
    flags = ["--data", str(data), "--crop", "64", "--workers", "0", "--device", "cpu", "--steps", "1"]
    flags += ["--precision", "32-true"]
    toml = tmp_path / "small.toml"
    toml.write_text("grad_clip = 1e9\n[model]\n" + "\n".join(f"{key} = {value}" for key, value in SMALL.items()))
    module = ["-m", "fpsgan", "train", "interpolator", *flags, "--config", str(toml)]
    one = [sys.executable, *module, "--batch", "4", "-o", str(tmp_path / "one")]
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [sys.executable, *run, *module, "--batch", "2", "-o", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (one, two):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two")]
    moments = [[entry["exp_avg"] for entry in state["optimizer"]["state"].values()] for state in states]
    assert len(moments[0]) == len(moments[1]) > 20
    largest = max(float(moment.abs().max()) for moment in moments[0])
    assert largest > 1e-6
    for a, b in zip(*moments, strict=True):
        assert float((a - b).abs().max()) < 1e-4 * largest


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fpsgan", "train", "interpolator", "-o", str(tmp_path / "run"), "--steps", "5"]
    done = subprocess.run([*command, "--data", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fpsgan: {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_a_worker_that_cannot_read_is_one_line_too(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    for pack in broken.glob("[0-4].bin"):
        pack.write_bytes(b"short")
    flags = ("--data", broken, "--crop", "64", "--batch", "2", "--steps", "5", "--workers", "1", "--device", "cpu")
    command = [sys.executable, "-m", "fpsgan", "train", "interpolator", "-o", tmp_path / "run", *flags]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "not a readable picture; build the data set again" in done.stderr
    assert done.stderr.count("\n") == 1


def test_ctrl_c_saves(data: Path, tmp_path: Path) -> None:
    flags = {
        "network": "interpolator", "data": [str(data)], "crop": 64, "batch": 2, "workers": 0, "model": SMALL,
        "steps": 100_000, "device": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), repr(flags)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                process.send_signal(signal.SIGINT)
                break
        began = time.monotonic()
        process.communicate()
        assert time.monotonic() - began < 60
    assert process.returncode == 0
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] >= 5
