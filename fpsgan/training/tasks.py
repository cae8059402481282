"""What each network learns from, what it is asked and how it is judged: everything in training that is not the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from deblur.fpn import Deblur, DeblurConfig
from fpsgan import weights
from fpsgan.errors import InputError
from fpsgan.interpolator import STRIDE, Interpolator, InterpolatorConfig, flow_prior, with_acceleration
from fpsgan.training.config import TrainConfig
from fpsgan.training.data import PICTURES, ClipTriplets, Mixture, Source, files_below
from fpsgan.training.deblur_data import BlurredClips, PairedFrames, ShakenPhotos
from fpsgan.training.losses import census, charbonnier, flow_loss, laplacian, multilevel, squared
from fpsgan.training.lottie import Animations
from fpsgan.training.manifest import Clip, read_manifest
from fpsgan.training.metrics import psnr, ssim
from fpsgan.training.scenes import Scenes

__all__ = ["Batch", "DeblurTask", "InterpolatorTask", "Output", "Task"]

Batch = dict[str, Tensor]
Image = NDArray[np.uint8]

FEWEST = 4  # sequences of a data set; fewer teach nothing but themselves
JUDGED_BY = 24  # samples of the validation split
PICTURE_LOSSES = {"laplacian": laplacian, "charbonnier": charbonnier, "census": census, "squared": squared}
FLOORS = {"laplacian": 0.02, "squared": 1e-5}  # of losses whose logarithm counts: added before it is taken
PRIOR = ("flow01", "flow10", "acceleration0", "acceleration1")
SHOWN = 4  # of them, as pictures
HELD_OUT = 16  # every so many-th photo is kept for validation


@dataclass(frozen=True)
class Output:
    """Of one step: the scalar loss; what the discriminator sees, [B,3,H,W] 0..1 (and what it knows, [B,6,H,W])."""

    loss: Tensor
    scalars: dict[str, float]
    real: Tensor
    fake: Tensor
    condition: Tensor | None = None


class Task(Protocol):
    """One network's side of training."""

    methods: Sequence[str]  # of the network that the loss calls, besides forward
    inputs: Sequence[str]  # of the batch: what the network must not get if it is not finite
    judged: int  # channels that the discriminator sees
    backbone: str  # what the names of the parameters begin with that `freeze` is about

    def __init__(self, config: TrainConfig, note: Callable[[str], None]) -> None: ...
    def network(self) -> nn.Module:
        """Untrained, or what `fine_tune` names."""

    def dataset(self) -> Dataset[dict[str, NDArray[np.generic]]]:
        """Samples by number, without end."""

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Output:
        """Of a batch as the dataset makes it, on the model's device."""

    def validate(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image]]:
        """(figures, the first decides which weights are best: higher is better; pictures). Both may be empty."""


def _clips(config: TrainConfig, split: str) -> list[Clip]:
    return [clip for folder in config.data for clip in read_manifest(folder, split)]


def _training_clips(config: TrainConfig) -> list[Clip]:
    clips = _clips(config, "train")
    if config.data and len(clips) < FEWEST:
        raise InputError(
            f"{', '.join(config.data)}: {len(clips)} sequences to train on, {FEWEST} are the least; "
            "add footage and run `fpsgan dataset build` again"
        )
    return clips


def _by_kind(clips: list[Clip]) -> list[list[Clip]]:
    """Those that bring blurred pictures, and those long enough to make some; without what would be empty."""
    paired = [clip for clip in clips if clip.blurred]
    alone = [clip for clip in clips if not clip.blurred and clip.count >= 3]
    return [some for some in (paired, alone) if some]


def _spread(clips: list[Clip], count: int) -> list[Clip]:
    """At most `count` of them, evenly over the list."""
    return [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, count).astype(int))] if clips else []


def _middle(image: Image, multiple: int = 32) -> Image:
    """The middle of a picture, whole multiples of `multiple` px, at most 384 a side."""
    height, width = (min(side // multiple * multiple, 384) for side in image.shape[:2])
    top, left = ((side - kept) // 2 // 4 * 4 for side, kept in zip(image.shape[:2], (height, width), strict=True))
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def _tensor(image: Image, device: torch.device) -> Tensor:
    return (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).to(device)


def _image(tensor: Tensor) -> Image:
    return (tensor[0].float() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def _scores(found: list[Image], truth: list[Image], before: list[Image]) -> dict[str, float]:
    """Means over pictures; `gain` is in dB over what there was before (the blend, the blurred picture), where that was
    not right already."""
    figures = [
        (min(60.0, psnr(a, b)), ssim(a, b), min(60.0, psnr(c, b))) for a, b, c in zip(found, truth, before, strict=True)
    ]
    if not figures:
        return {}
    score, likeness, _ = (float(value) for value in np.mean(figures, axis=0))
    gains = [after - input_score for after, _, input_score in figures if input_score < 60]
    return {"psnr": score, "ssim": likeness, "gain": float(np.mean(gains)) if gains else 0.0}


class InterpolatorTask:
    """Frames dropped from footage, rendered scenes and animations, found again."""

    methods: Sequence[str] = ("synthesize",)
    inputs: Sequence[str] = ("t", *PRIOR)
    judged = 9  # the frame and, as its condition, the two that it lies between
    backbone = ""

    def __init__(self, config: TrainConfig, note: Callable[[str], None]) -> None:
        self.config = config
        model = weights.metadata(config.fine_tune)["config"] if config.fine_tune else config.model
        effort = str(model.get("prior", "base"))
        self.stride = STRIDE[effort]
        clips = _training_clips(config)
        self.sources: dict[str, Source] = {}
        if clips:
            gap, augment = config.max_gap, config.augment
            self.sources["clips"] = ClipTriplets(clips, config.crop, max_gap=gap, effort=effort, augment=augment)
        if config.photos:
            self.sources["photos"] = Scenes(config.photos, config.crop, effort=effort)
        if config.animations:
            self.sources["animations"] = Animations(config.animations, config.crop, holds=config.holds, effort=effort)
        self.prior = partial(flow_prior, effort=effort)
        self.judged_by = [clip for clip in _spread(_clips(config, "val"), JUDGED_BY) if clip.count >= 3]
        if not self.judged_by:
            note("no clips to validate on: the last weights are kept, not the best")

    def network(self) -> nn.Module:
        if self.config.fine_tune:
            return weights.load(self.config.fine_tune, expect="interpolator").requires_grad_(True)
        network = Interpolator(InterpolatorConfig(**self.config.model))
        return _channels_last(network)

    def dataset(self) -> Dataset[dict[str, NDArray[np.generic]]]:
        return Mixture(list(self.sources.values()), _shares(self.config, self.sources), self.config.seed)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Output:
        frame0, truth, frame1 = (batch[name].float() / 255 for name in ("frame0", "truth", "frame1"))
        prior: list[Tensor] | None = [batch[name] for name in PRIOR]
        if np.random.default_rng([self.config.seed, step]).random() < self.config.drop_prior:
            prior = None  # for the whole batch: it is another path through the network
        result = cast(Interpolator, model).synthesize(frame0, frame1, batch["t"], prior)  # or what Fabric makes of it
        terms: dict[str, Tensor] = {}
        for name, weight in self.config.losses.items():
            if not weight:
                continue
            if name == "flow":
                value = flow_loss(result, batch["flow_t0"], batch["flow_t1"], batch["visible"])
            elif name == "multilevel":
                value = multilevel(result, frame0, frame1, truth)
            else:
                value = PICTURE_LOSSES[name](result.frame, truth)
            if name in FLOORS:
                # The logarithm gives an easy sample the weight of a hopeless one, as the mean of PSNRs does; without it
                # the fastest few of a batch make nearly all of the gradient.
                value = torch.log(value + FLOORS[name])
            terms[name] = value.mean()
        total = torch.stack([self.config.losses[name] * value for name, value in terms.items()]).sum()
        scalars = {name: float(value.detach()) for name, value in terms.items()}
        scalars["psnr"] = float(_psnr(result.frame.detach(), truth).mean())
        return Output(total, scalars, truth, result.frame, torch.cat((frame0, frame1), 1))

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image]]:
        """PSNR, SSIM and gain over the blend, of a frame rebuilt from those beside it, and one more on either side."""
        device = next(network.parameters()).device
        found: list[Image] = []
        truths: list[Image] = []
        blends: list[Image] = []
        pictures: dict[str, Image] = {}
        for clip in self.judged_by:
            at = clip.count // 2
            image0, truth, image1 = (_middle(clip.read(at + i)) for i in (-1, 0, 1))
            before = self.prior(_middle(clip.read(at - 3)), image0) if at >= 3 else None
            after = self.prior(image1, _middle(clip.read(at + 3))) if at + 3 < clip.count else None
            known = with_acceleration(self.prior(image0, image1), before, after, stride=self.stride)
            prior = [torch.from_numpy(each)[None].to(device) for each in known]
            half = torch.tensor([0.5], device=device)
            image = _image(network(_tensor(image0, device), _tensor(image1, device), half, prior))
            found.append(image)
            truths.append(truth)
            blends.append(cv2.addWeighted(image0, 0.5, image1, 0.5, 0).astype(np.uint8))
            if len(pictures) < SHOWN:
                pictures[clip.name] = np.concatenate([blends[-1], image, truth], 1)
        return _scores(found, truths, blends), pictures


class DeblurTask:
    """Sharp footage averaged over an exposure, photos shaken on purpose, and real pairs, made sharp again."""

    methods: Sequence[str] = ()
    inputs: Sequence[str] = ()
    judged = 3
    backbone = "fpn.enc"

    def __init__(self, config: TrainConfig, note: Callable[[str], None]) -> None:
        self.config = config
        clips = _training_clips(config)
        self.sources: dict[str, Source] = {}
        for some in _by_kind(clips):
            if some[0].blurred:
                self.sources["pairs"] = PairedFrames(some, config.crop)
            else:
                self.sources["clips"] = BlurredClips(some, config.crop)
        model = weights.metadata(config.fine_tune)["config"] if config.fine_tune else config.model
        undone = DeblurConfig(**model).undo_shake
        validation: list[Source] = []
        if config.photos:
            files = files_below(config.photos, PICTURES, "pictures")
            held_out = files[HELD_OUT - 1 :: HELD_OUT]
            rest = [file for number, file in enumerate(files, 1) if number % HELD_OUT]
            self.sources["photos"] = ShakenPhotos(rest, config.crop, config.longest, ramp=config.ramp, undone=undone)
            validation += [ShakenPhotos(held_out, 192, config.longest, undone=undone)] if held_out else []
        for kept in _by_kind(_clips(config, "val")):
            size = min(192, *(side // 8 * 8 for clip in kept for side in (clip.width, clip.height)))
            validation.append((PairedFrames if kept[0].blurred else BlurredClips)(kept, size))
        rngs = [np.random.default_rng([number, 123]) for number in range(JUDGED_BY)]
        self.judged_by = [validation[i % len(validation)].sample(rng) for i, rng in enumerate(rngs) if validation]
        if not self.judged_by:
            note("nothing to validate on: the last weights are kept, not the best")

    def network(self) -> nn.Module:
        if self.config.fine_tune:
            network: nn.Module = weights.load(self.config.fine_tune, expect="deblur").requires_grad_(True)
        else:
            network = Deblur(DeblurConfig(**self.config.model))
        _quicken(network)
        return _channels_last(network)

    def dataset(self) -> Dataset[dict[str, NDArray[np.generic]]]:
        return Mixture(list(self.sources.values()), _shares(self.config, self.sources), self.config.seed)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> Output:
        """The error that is left, as a share of the error that was there.

        Long shakes have ten times the error of short ones and little of it can be undone; without the division they
        drown the rest. What is added below keeps samples that were sharp already from weighing without bound.
        """
        blurred, sharp = (batch[name].float() / 255 for name in ("blurred", "sharp"))
        output = model(blurred.contiguous(memory_format=torch.channels_last)).float()
        left, before = (self._error(image - sharp) for image in (output, blurred))
        loss = (left / (before + 0.05)).mean()
        shaken = _psnr(blurred, sharp) < 60
        gain = (_psnr(output.detach(), sharp) - _psnr(blurred, sharp))[shaken]
        return Output(loss, {"gain": float(gain.mean()) if len(gain) else 0.0}, sharp, output)

    def _error(self, difference: Tensor) -> Tensor:
        """Of each image [B,3,H,W] → [B]: Charbonnier, and the mean absolute error of the spectrum, which asks for the
        frequencies that blur takes away (Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring",
        ICCV 2021, equation 3)."""
        spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho")).abs().mean((1, 2, 3, 4))
        pixels = (difference.square() + 1e-6).sqrt().mean((1, 2, 3))
        return self.config.losses.get("charbonnier", 0) * pixels + self.config.losses.get("spectrum", 0) * spectrum

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], dict[str, Image]]:
        """PSNR, SSIM and gain over the input, on blur of full variety."""
        device = next(network.parameters()).device
        found: list[Image] = []
        truths: list[Image] = []
        inputs: list[Image] = []
        pictures: dict[str, Image] = {}
        for number, sample in enumerate(self.judged_by):
            blurred, sharp = (np.ascontiguousarray(sample[name].transpose(1, 2, 0)) for name in ("blurred", "sharp"))
            found.append(_image(network(_tensor(blurred.astype(np.uint8), device))))
            truths.append(sharp.astype(np.uint8))
            inputs.append(blurred.astype(np.uint8))
            if number < SHOWN:
                pictures[str(number)] = np.concatenate([inputs[-1], found[-1], truths[-1]], 1)
        figures = _scores(found, truths, inputs)
        return ({"gain": figures.pop("gain"), **figures} if figures else {}), pictures


def _channels_last(network: nn.Module) -> nn.Module:
    to: Callable[..., nn.Module] = network.to  # torch's types leave the memory format out
    return to(memory_format=torch.channels_last)


def _shares(config: TrainConfig, sources: dict[str, Source]) -> list[float]:
    """The shares of the sources that are there; `clips` stands for real pairs too."""
    found = [config.shares.get("clips" if name == "pairs" else name, 1.0) for name in sources]
    if not any(found):
        raise InputError("every source that is there has the share 0: nothing to train on")
    return found


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    """In dB, of each image: [B,3,H,W] 0..1, twice → [B]. Equal images give 100."""
    return -10 * (a - b).square().mean((1, 2, 3)).clamp(min=1e-10).log10()


def _quicken(network: nn.Module) -> None:
    """Run strided depthwise convolutions at full rate and drop what they skip: the same result.

    Their backward pass on a CPU costs more than the rest of the backbone together; without a stride it is cheap.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.stride == (2, 2):
            module.stride = (1, 1)
            module.register_forward_hook(_subsample)


def _subsample(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output[..., ::2, ::2]
