"""Training of the deblurring network: its samples, its losses, its optimizer."""

import copy

import numpy as np
import pytest
import torch

from deblur.fpn import Deblur, DeblurConfig
from fpsgan.training.muon import Muon, orthogonal
from fpsgan.training.train_deblur import (
    BlurReader,
    batches,
    degrade,
    load_photos,
    loss_fn,
    psnr,
    quicken,
    read_loss_fn,
    transfer,
)


@pytest.fixture(scope="module")
def photos():
    """Two drawings with edges, uint8 RGB, the second smaller than a crop with its margin."""
    rng = np.random.default_rng(3)
    return [
        np.kron(rng.integers(0, 256, size), np.ones((9, 9, 1))).astype(np.uint8) for size in ((30, 40, 3), (9, 9, 3))
    ]


def test_batches_are_what_they_say(photos):
    batch = next(batches(photos, 64, 3, seed=0))
    assert batch["blurred"].shape == batch["sharp"].shape == (3, 3, 64, 64)
    assert batch["transfer"].shape == (3, 144)
    assert all(float(v.min()) >= 0 and float(v.max()) <= 1.0001 for v in batch.values())
    again = next(batches(photos, 64, 3, seed=0))
    assert all(torch.equal(batch[key], again[key]) for key in batch)


def test_one_sample_in_six_stays_as_it_is_and_the_rest_is_blurred(photos):
    rng = np.random.default_rng(0)
    crop = photos[0][:96, :96]
    pairs = [degrade(crop, rng) for _ in range(300)]
    untouched = [kernel.size == 1 for _, _, kernel in pairs]
    assert 0.1 < np.mean(untouched) < 0.22
    for (blurred, target, kernel), same in zip(pairs, untouched, strict=True):
        assert np.array_equal(blurred, target) == same
        assert kernel.sum() == pytest.approx(1, abs=1e-4)


def test_transfer_tells_direction_and_length():
    assert np.allclose(transfer(np.ones((1, 1), np.float32)), 1)
    across, down = (transfer(np.full(shape, 1 / 9, np.float32)).reshape(16, 9) for shape in ((1, 9), (9, 1)))
    assert across[0].mean() < 0.4 and np.allclose(across[:, 0], 1, atol=1e-5)
    assert down[:, 0].mean() < 0.4 and np.allclose(down[0], 1, atol=1e-5)


@torch.no_grad()
def test_loss_of_doing_nothing_is_about_one_and_of_the_truth_nearly_zero(photos):
    batch = next(batches(photos, 64, 8, seed=1))
    shaken = psnr(batch["blurred"], batch["sharp"]) < 60
    batch = {key: value[shaken] for key, value in batch.items()}
    nothing, metrics = loss_fn(Deblur(DeblurConfig(num_filters=4)), batch)
    assert 0.5 < float(nothing) < 1 and metrics["gain"] == pytest.approx(0, abs=0.1)
    truth, _ = loss_fn(torch.nn.Identity(), {**batch, "sharp": batch["blurred"]})
    assert float(truth) < 0.3


def test_quickened_network_is_the_same_function():
    torch.manual_seed(0)
    network = Deblur(DeblurConfig(num_filters=8)).eval()
    torch.nn.init.normal_(network.final.weight, std=0.02)
    quick = copy.deepcopy(network)
    quicken(quick)
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(network(image), quick(image), atol=1e-6)
    assert network.state_dict().keys() == quick.state_dict().keys()


@torch.no_grad()
def test_the_reader_is_asked_at_four_scales(photos):
    reader = BlurReader(Deblur(DeblurConfig(num_filters=4)))
    batch = next(batches(photos, 64, 2, seed=0))
    assert [tuple(m.shape) for m in reader(batch["blurred"])] == [(2, 144, s, s) for s in (16, 8, 4, 2)]
    loss, metrics = read_loss_fn(reader, batch)
    assert float(loss) == pytest.approx(np.mean(list(metrics.values())), rel=0.01)


def test_muon_steps_are_orthogonal_and_lower_a_loss(photos):
    step = orthogonal(torch.randn(8, 30))
    assert torch.linalg.svdvals(step).sub(1).abs().max() < 0.4
    torch.manual_seed(0)
    network = Deblur(DeblurConfig(num_filters=4)).train()
    optimizer = Muon(network, fine="final")
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in network.parameters()
    )
    batch = next(batches(photos, 64, 2, seed=1))
    losses = []
    for _ in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * group["scale"]
        loss, _ = loss_fn(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_unreadable_photos_are_refused(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="broken"):
        load_photos([tmp_path])
