from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from fpsgan import benchmark as module
from fpsgan.benchmark import benchmark
from fpsgan.cli.text import benchmark_text
from fpsgan.errors import OptionError, SetupError
from fpsgan.options import Options
from fpsgan.training.peers import Window


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_every_step_is_timed_and_a_clip_made(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SIZES, "tiny", (96, 64))
    options = Options(device="cpu", half=False, engine=engine, weights="interpolator-fast")
    found = benchmark(options, "tiny", frames=5, repeats=1)
    assert found.engine == engine and found.dtype == "float32" and found.frames == 10
    assert {"flow", "exposure, overlays", "acceleration"} <= set(found.stages) and min(found.stages.values()) >= 0
    assert found.stages["flow"] > 0 and found.fps == pytest.approx(found.frames / found.seconds)
    assert found.bound in (*found.stages, "decoding, encoding") and found.device_memory == 0


def test_a_size_that_is_not_known_is_refused() -> None:
    with pytest.raises(OptionError, match="--size 8k: must be 360p, 720p"):
        benchmark(Options(), "8k")
    with pytest.raises(OptionError, match="--frames 2: must be at least 3"):
        benchmark(Options(), "360p", frames=2)


def test_peers_are_timed_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SIZES, "tiny", (96, 64))
    asked: list[Window] = []

    def filler(windows: Iterable[Window]) -> Iterator[list[np.ndarray]]:
        asked.extend(windows)
        yield []

    def missing(device: torch.device) -> None:
        raise SetupError("needs some package: pip install it")

    monkeypatch.setattr(module, "PEERS", {"one": lambda device: filler, "other": missing})
    options = Options(device="cpu", half=False, weights="interpolator-fast")
    found = benchmark(options, "tiny", frames=3, repeats=1, peers=True)
    assert list(found.peers) == ["one"] and found.peers["one"] >= 0
    assert found.missing == ["needs some package: pip install it"]
    assert len(asked) == 1 + module.WARM_UP and asked[0].times == (0.5,) and asked[0].frame0.image.shape == (64, 96, 3)
    assert "needs some package" in benchmark_text(found) and "one" in benchmark_text(found)
