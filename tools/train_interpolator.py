"""Trains the interpolator on packs made by `python -m fpsgan.training.data`.

    python tools/train_interpolator.py --pack video:6 --pack photos:2.5 --pack lottie:1.5 --validation val \
        -o runs/base --max-minutes 60
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fpsgan import weights
from fpsgan.interpolator import Interpolator
from fpsgan.training.data import triplet_batches
from fpsgan.training.losses import flow_loss, laplacian
from fpsgan.training.metrics import psnr
from fpsgan.training.train import Batch, train


def prior_of(batch: Batch) -> tuple[Tensor, Tensor] | None:
    return (batch["flow01"], batch["flow10"]) if "flow01" in batch else None


def loss_fn(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    assert isinstance(model, Interpolator)
    result = model.synthesize(batch["frame0"], batch["frame1"], batch["t"], prior_of(batch))
    distance = laplacian(result.frame, batch["truth"])
    flow = flow_loss(result, batch["flow_t0"], batch["flow_t1"])
    # The logarithm gives an easy sample the weight of a hopeless one, as the mean of PSNRs does; without it the
    # fastest few of a batch make nearly all of the gradient.
    image = torch.log(distance + 0.02).mean()
    mse = (result.frame.detach() - batch["truth"]).square().flatten(1).mean(dim=1)
    scalars = {"distance": float(distance.detach().mean()), "psnr": float(-10 * torch.log10(mse + 1e-6).mean())}
    return image + 0.1 * flow, {**scalars, "image": float(image.detach()), "flow": float(flow.detach())}


def read_validation(folders: list[Path]) -> dict[str, list[Batch]]:
    """Every sample of the validation packs, one a batch, as it lies."""
    found = {}
    for folder in folders:
        count = json.loads((folder / "samples.json").read_text())["samples"]
        arrays = {name: np.load(folder / f"{name}.npy")[:count] for name in ("frames", "t", "prior")}
        found[folder.name] = [
            {
                "frames": torch.from_numpy(frames).permute(0, 3, 1, 2),
                "t": torch.tensor([float(t)]),
                "prior": torch.from_numpy(prior.astype(np.float32)),
            }
            for frames, t, prior in zip(*arrays.values(), strict=True)
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", action="append", required=True, metavar="FOLDER:SHARE")
    parser.add_argument("--validation", type=Path, nargs="+", default=[], help="packs to choose the best by")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--max-minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-from", type=Path, help="best.pt of an earlier run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    packs = [(Path(folder), float(share)) for folder, _, share in (p.rpartition(":") for p in options.pack)]
    model = Interpolator()
    if options.start_from:
        model.load_state_dict(torch.load(options.start_from, weights_only=True)["model"])
    validation = read_validation(options.validation)

    def validate(network: nn.Module) -> dict[str, float]:
        """PSNR per pack, the mean over packs first; then once more without the prior."""
        scores: dict[str, list[float]] = {}
        with torch.no_grad():
            for name, samples in validation.items():
                for sample in samples:
                    frames = sample["frames"].float() / 255.0
                    truth = sample["frames"][1].numpy()
                    prior = (sample["prior"][:1], sample["prior"][1:])
                    for suffix, given in (("", prior), ("_no_prior", None)):
                        found = network(frames[:1], frames[2:], sample["t"], given)[0]
                        image = (found * 255.0).round().clamp(0, 255).byte().numpy()
                        scores.setdefault(name + suffix, []).append(min(60.0, psnr(image, truth)))
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        given_prior = [value for name, value in means.items() if not name.endswith("_no_prior")]
        return {"psnr": float(np.mean(given_prior)), **means}

    batches = triplet_batches(
        [folder for folder, _ in packs],
        [share for _, share in packs],
        options.batch,
        options.crop,
        np.random.default_rng(options.seed),
    )
    best = train(
        model,
        batches,
        loss_fn,
        out=options.output,
        max_minutes=options.max_minutes,
        lr=options.lr,
        grad_clip=10.0,
        validate=validate if validation else None,
        validate_every_minutes=8.0,
    )
    model.load_state_dict(torch.load(best, weights_only=True)["model"])
    print(weights.save(options.output / "interpolator.safetensors", model, {"trained": f"{options.pack}"}))


if __name__ == "__main__":
    main()
