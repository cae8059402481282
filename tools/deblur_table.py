"""The three DeblurGAN-v2 generators: parameters, cost and time of one frame, beside the paper's table.

    python tools/deblur_table.py [--size 1280x720] [--repeats 7] [--threads 1,2] [--no-time]

GMAC are billions of multiply-accumulates for one 720p frame, padded to 736×1280, counted by torch. The published ones
(Kupyn et al., ICCV 2019, table 1) are such MACs too, but with the backbone counted twice: the authors' code registers
it twice, and their counter walks over the modules. "Backbone twice" counts that way. Parameters are those in use.

Times are of one frame, medians, with untrained weights (which changes nothing), the contestants taking turns: the
network as it is written ("eager"), in fp32; the same rearranged (deblur/folded.py), in fp32 and, where the CPU has AMX,
in bf16. The last column is the median over the turns of: time of the eager fp32 MobileNet, divided by this one's.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deblur.folded import FoldedDeblur
from deblur.fpn import PUBLISHED, Deblur

# GMAC and seconds a frame (on their GPU) as printed there
PAPER = {"inception": (411.34, 0.35), "mobilenet": (43.75, 0.06), "mobilenet-dsc": (14.83, 0.04)}


def cost(network: Deblur) -> tuple[float, float]:
    """(GMAC of the generator, of its backbone alone) for one frame of 736×1280; the network is moved to "meta"."""
    network, image = network.to("meta"), torch.empty(1, 3, 736, 1280, device="meta")
    found = []
    for run in (network, network.fpn.encode):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(image)
        found.append(counter.get_total_flops() / 2e9)
    return found[0], found[1]


def contestants() -> dict[tuple[str, str], nn.Module]:
    """(generator, how it runs) → the module, ready to run on a CPU."""
    found: dict[tuple[str, str], nn.Module] = {}
    for name, config in PUBLISHED.items():
        torch.manual_seed(0)
        plain = Deblur(config).eval().requires_grad_(False)
        found[name, "eager fp32"] = plain
        found[name, "fast fp32"] = FoldedDeblur(plain).to(memory_format=torch.channels_last)
        if torch.cpu._is_amx_tile_supported():
            found[name, "fast bf16"] = FoldedDeblur(plain).to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    return found


@torch.inference_mode()
def times(
    networks: dict[tuple[str, str], nn.Module], width: int, height: int, repeats: int
) -> list[dict[tuple[str, str], float]]:
    """Seconds of one frame of each, `repeats` rounds, in each of which everybody has a turn."""
    image = torch.rand(1, 3, height, width)
    last = image.contiguous(memory_format=torch.channels_last)
    rounds = []
    for _ in range(repeats + 1):
        taken = {}
        for key, network in networks.items():
            began = time.perf_counter()
            network(image if key[1].startswith("eager") else last)
            taken[key] = time.perf_counter() - began
        rounds.append(taken)
    return rounds[1:]  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1280x720", help="of the frame whose time is taken")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", default=str(torch.get_num_threads()), help="numbers of CPU threads, as in 1,2")
    parser.add_argument("--only", help="take the time of this one alone, and of what it is compared with")
    parser.add_argument("--no-time", action="store_true", help="count only")
    options = parser.parse_args()

    print("| | parameters | GMAC | published | backbone twice | published, their GPU |\n" + "|---" * 6 + "|")
    for name, config in PUBLISHED.items():
        network = Deblur(config)
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        (whole, backbone), (published, seconds) = cost(network), PAPER[name]
        figures = f"{parameters:.2f} M | {whole:.1f} | {published} | {whole + backbone:.2f} | {1000 * seconds:.0f} ms"
        print(f"| {name} | {figures} |")
    if options.no_time:
        return
    width, height = map(int, options.size.split("x"))
    base = ("mobilenet", "eager fp32")
    networks = {
        key: network
        for key, network in contestants().items()
        if not options.only or key[0] == options.only or key == base
    }
    for threads in map(int, options.threads.split(",")):
        torch.set_num_threads(threads)
        turns = times(networks, width, height, options.repeats)
        print(f"\n{width}×{height}, {threads} CPU thread{'s' * (threads > 1)}, {options.repeats} turns\n")
        print("| | ms | times faster than the eager fp32 MobileNet |\n|---|---|---|")
        for key in networks:
            taken = statistics.median(turn[key] for turn in turns)
            ratio = statistics.median(turn[base] / turn[key] for turn in turns)
            print(f"| {' '.join(key)} | {1000 * taken:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
