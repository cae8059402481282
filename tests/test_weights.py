from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deblur.fpn import Deblur, DeblurConfig
from fpsgan import weights
from fpsgan.errors import InputError, OptionError, OutputError, WeightsError
from fpsgan.interpolator import Interpolator


def test_shipped_weights_are_whole_and_small() -> None:
    shipped = weights.bundled()
    assert {"interpolator-base", "deblur-mobilenet"} <= shipped.keys()
    assert sum(path.stat().st_size for path in shipped.values()) <= 12e6
    for name, path in shipped.items():
        assert len(weights.verify(name)) == 64
        assert path.with_suffix(".md").is_file(), "every shipped file has a model card"
        assert weights.metadata(name)["card"], "and says in its header where it comes from"


@pytest.mark.parametrize("network", [Interpolator, Deblur])
def test_a_saved_network_comes_back(tmp_path: Path, network: type) -> None:
    torch.manual_seed(0)
    before = network().eval()
    path = weights.save(tmp_path / "w.safetensors", before, {"recipe": "none"})
    after = weights.load(path)
    assert type(after) is network and not after.training
    for name, value in before.state_dict().items():
        close = after.state_dict()[name]
        assert torch.allclose(close.double(), value.double(), rtol=1e-3, atol=1e-4), name
    assert weights.metadata(path)["card"] == {"recipe": "none"}


def test_statistics_beyond_half_precision_survive(tmp_path: Path) -> None:
    network = Deblur().eval()
    network.smooth[1].running_var.fill_(1e6)
    after = weights.load(weights.save(tmp_path / "w.safetensors", network, {}))
    assert torch.equal(after.smooth[1].running_var, network.smooth[1].running_var)


def test_a_published_checkpoint_becomes_a_weights_file(tmp_path: Path) -> None:
    network = Deblur(DeblurConfig(num_filters=8))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"model": state}, tmp_path / "fpn.h5")
    path = weights.convert(tmp_path / "fpn.h5", tmp_path / "w.safetensors")
    assert weights.load(path, expect="deblur").config == DeblurConfig(num_filters=8, norm="instance", undo_shake=False)
    assert weights.metadata(path)["card"]["converted from"] == "fpn.h5"
    with pytest.raises(OutputError, match="exists already"):
        weights.convert(tmp_path / "fpn.h5", path)
    with pytest.raises(InputError, match="no such file"):
        weights.convert(tmp_path / "none.h5", tmp_path / "v.safetensors")
    with pytest.raises(WeightsError, match="no state dict"):
        weights.convert(path, tmp_path / "v.safetensors")
    with pytest.raises(OptionError, match="--norm"):
        weights.convert(tmp_path / "fpn.h5", tmp_path / "v.safetensors", norm="batch")
    assert not (tmp_path / "v.safetensors").exists()


def test_the_wrong_network_is_refused(tmp_path: Path) -> None:
    path = weights.save(tmp_path / "d.safetensors", Deblur(), {})
    with pytest.raises(WeightsError, match="weights of the deblur network, but interpolator weights are needed"):
        weights.load(path, expect="interpolator")


@pytest.mark.parametrize("content", [b"", b"not a tensor in sight" * 10])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        weights.load(path)


def test_foreign_and_misfitting_tensors_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not one that fpsGAN wrote"):
        weights.load(tmp_path / "foreign.safetensors")
    header = {"architecture": "deblur", "config": "{}"}
    save_file({"a": torch.zeros(2)}, tmp_path / "misfit.safetensors", header)
    with pytest.raises(WeightsError, match="does not fit this version's deblur network"):
        weights.load(tmp_path / "misfit.safetensors")
    with pytest.raises(WeightsError, match="neither a weights file nor one of"):
        weights.load("no-such-name")


def test_damage_to_shipped_weights_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in weights.FOLDER.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "interpolator-base.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(WeightsError, match="damaged"):
        weights.load("interpolator-base")
