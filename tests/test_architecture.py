"""Imports go one way, the video layer knows no torch, and every module exports what it says."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deblur
import fpsgan

# From the bottom up; a module may import what stands in a lower row, never its own row or a higher one.
LAYERS = (
    ("fpsgan.errors", "fpsgan.threads", "deblur", "fpsgan.interpolator.kernels", "fpsgan.interpolator.synthesis"),
    ("fpsgan.video", "fpsgan.runtime", "fpsgan.interpolator.flow"),
    ("fpsgan.interpolator.network", "fpsgan.interpolator.cpu_flow"),
    ("fpsgan.interpolator.cpu",),
    ("fpsgan.interpolator.runner",),
    ("fpsgan.interpolator",),
    ("fpsgan.weights", "fpsgan.stages.exposure", "fpsgan.stages.overlays"),
    ("fpsgan.device",),
    ("fpsgan.stages",),
    ("fpsgan.options", "fpsgan.segments"),
    ("fpsgan.rendering",),
    ("fpsgan.spread",),
    ("fpsgan.job", "fpsgan.live", "fpsgan.training"),
    ("fpsgan.demo", "fpsgan.photos", "fpsgan.web"),
    ("fpsgan.benchmark", "fpsgan.export"),
    ("fpsgan.cli",),
)
TORCH_FREE = tuple(
    f"fpsgan.{name}" for name in ("errors", "threads", "options", "stages.scenes", "stages.timeline", "video")
)
MODULES = sorted(
    found.name
    for package in (fpsgan, deblur)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not found.name.endswith("__main__")  # to import it is to run it
)


def unit(name: str) -> str | None:
    """The entry of LAYERS that a dotted name belongs to."""
    return next((u for row in LAYERS for u in row if f"{name}.".startswith(f"{u}.")), None)


def imports(module: str) -> Iterator[str]:
    """Dotted names that a module imports, wherever in its text."""
    source = importlib.util.find_spec(module).origin
    for node in ast.walk(ast.parse(Path(source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    level = {u: k for k, row in enumerate(LAYERS) for u in row}
    own = unit(module)
    assert own is not None, f"{module} has no place in LAYERS yet: give it one"
    for other in {unit(name) for name in imports(module)} - {own, None}:
        assert level[other] < level[own], f"{module} imports {other}, which is not below it"
    if own in TORCH_FREE:
        assert not [name for name in imports(module) if name.split(".")[0] in ("torch", "torchvision")]


def test_video_layer_runs_without_torch() -> None:
    names = [name for name in MODULES if unit(name) in TORCH_FREE]
    code = f"import {', '.join(names)}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("module", MODULES)
def test_exports_exist(module: str) -> None:
    loaded = importlib.import_module(module)
    exported = getattr(loaded, "__all__", [])
    assert len(set(exported)) == len(exported)
    assert [name for name in exported if not hasattr(loaded, name)] == []
