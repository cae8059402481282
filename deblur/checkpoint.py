"""Published DeblurGAN-v2 checkpoints: what is in them, and how it becomes a `Deblur`.

They are `{"model": state dict}` of a network inside DataParallel: every name begins with `module.`. The backbone is in
them twice, once as the classification network (`fpn.features.N…`, `fpn.inception.…`) and once cut into stages
(`fpn.encK…`), and whole, with the stages that never run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from deblur.fpn import PUBLISHED, Deblur

__all__ = ["load_published"]

# Stage by stage: our name, which is also theirs → theirs in the classification network.
TWINS = {
    "mobilenet": {
        f"fpn.enc{level}.{index}.": f"fpn.features.{begin + index}."
        for level, (begin, end) in enumerate(((0, 2), (2, 4), (4, 7), (7, 11), (11, 16)))
        for index in range(end - begin)
    },
    "inception": {
        "fpn.enc0.": "fpn.inception.conv2d_1a.",
        "fpn.enc1.0.": "fpn.inception.conv2d_2a.",
        "fpn.enc1.1.": "fpn.inception.conv2d_2b.",
        "fpn.enc2.0.": "fpn.inception.conv2d_3b.",
        "fpn.enc2.1.": "fpn.inception.conv2d_4a.",
        "fpn.enc3.0.": "fpn.inception.mixed_5b.",
        "fpn.enc3.1.": "fpn.inception.repeat.",
        "fpn.enc3.2.": "fpn.inception.mixed_6a.",
        "fpn.enc4.0.": "fpn.inception.repeat_1.",
        "fpn.enc4.1.": "fpn.inception.mixed_7a.",
    },
}


def load_published(path: str | Path, *, norm: str = "instance") -> Deblur:
    """The `Deblur` (eval mode, fp32) of a published checkpoint: `fpn_inception.h5`, `fpn_mobilenet.h5` and their like.

    The backbone is told from the names, the width from the last layer. `norm` as in DeblurConfig: the authors run
    theirs with each picture's own statistics. Reads tensors only, no code. ValueError, in one line, for a file that is
    no such checkpoint, or one in which a tensor is missing or of another shape.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes for what it cannot read
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{path}: not a checkpoint of tensors alone ({reason})") from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: not a DeblurGAN-v2 checkpoint: no state dict under 'model'")
    found: dict[str, Tensor] = {name.removeprefix("module."): value for name, value in state.items()}
    backbone = (
        "inception" if any(name in found for name in _names("fpn.enc0.conv.weight", "inception")) else "mobilenet"
    )
    final = found.get("final.weight")
    if final is None or final.ndim != 4:
        raise ValueError(f"{path}: not a DeblurGAN-v2 checkpoint: 'final.weight' is missing")
    network = Deblur(dataclasses.replace(PUBLISHED[backbone], num_filters=2 * final.shape[1], norm=norm)).eval()
    own = network.state_dict()
    for name, value in own.items():
        there = next((found[other] for other in _names(name, backbone) if other in found), None)
        if there is None:
            if name.endswith("num_batches_tracked"):  # older versions of torch did not count
                continue
            raise ValueError(f"{path}: as a {backbone} generator it lacks {' and '.join(_names(name, backbone))}")
        if there.shape != value.shape:
            raise ValueError(f"{path}: {name} has shape {list(there.shape)}, but {list(value.shape)} is needed")
        own[name] = there
    network.load_state_dict(own)
    return network.requires_grad_(False)


def _names(name: str, backbone: str) -> list[str]:
    """Under which names a checkpoint may hold what is `name` to us."""
    twins = TWINS[backbone].items()
    return [name, *(theirs + name.removeprefix(ours) for ours, theirs in twins if name.startswith(ours))]
