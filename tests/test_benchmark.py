from __future__ import annotations

import pytest

from fpsgan import benchmark as module
from fpsgan.benchmark import benchmark
from fpsgan.errors import OptionError
from fpsgan.options import Options


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
    with pytest.raises(OptionError, match="--size 8k: must be one of 360p, 720p"):
        benchmark(Options(), "8k")
    with pytest.raises(OptionError, match="--frames 2: must be at least 3"):
        benchmark(Options(), "360p", frames=2)
