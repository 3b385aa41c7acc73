"""How fast is the ViT encoder? `segment_anything`'s in float32 and bfloat16 against ours, on one image, in one run.

    python benchmarks/encoder.py [--width 768 --depth 12 --heads 12] [--rounds 3]

Weights are random (ViT-B's shape by default): this measures arithmetic and time, not quality. The sides take turns, and
the best time of each counts. Prints seconds an image, ratios to the package in float32, the relative error of the
features, and a JSON line.
"""

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from persam_ray.compute.host_memory import keep_freed_memory
from persam_ray.sam.folded_vit import FoldedViT

FLOP_PER_TOKEN_PAIR = 4  # q k and the weighted sum of v, a multiplication and an addition each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = vit(options.width, options.depth, options.heads)
    rounded = copy.deepcopy(encoder).bfloat16()
    folded = FoldedViT(rounded)
    image = torch.randn(1, 3, 1024, 1024)
    sides: dict[str, Callable[[], Tensor]] = {
        "segment_anything, float32": lambda: encoder(image),
        "segment_anything, bfloat16": lambda: rounded(image.bfloat16()).float(),
        "ours, bfloat16": lambda: folded(image.bfloat16()).float(),
    }
    timed = Timed()
    with torch.inference_mode():
        for _ in range(options.rounds):
            for name, encode in sides.items():
                timed.run(name, encode)
        keep_freed_memory()  # cannot be undone: so this side comes last
        sides["ours, bfloat16"]()
        for _ in range(options.rounds):
            timed.run("ours, bfloat16, freed memory kept", sides["ours, bfloat16"])
    results = timed.compared("segment_anything, float32", flop_of(encoder))
    for name, row in results.items():
        print(
            f"{name:36} {row['seconds']:6.2f} s  {row['ratio']:5.2f}x  error {row['error']:.4f}  "
            f"{row['tflop_per_s']:.2f} TFLOP/s"
        )
    print(json.dumps({"width": options.width, "depth": options.depth, "threads": torch.get_num_threads(), **results}))


@dataclass
class Timed:
    """Seconds of every call of each side, and its last features."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    features: dict[str, Tensor] = field(default_factory=dict)

    def run(self, name: str, encode: Callable[[], Tensor]) -> None:
        """Call a side once."""
        started_s = time.perf_counter()
        self.features[name] = encode()
        self.seconds[name].append(time.perf_counter() - started_s)

    def compared(self, base: str, flop: float) -> dict[str, dict[str, float]]:
        """Return each side's figures in relation to those of one side, the baseline."""
        base_s, exact = min(self.seconds[base]), self.features[base]
        return {
            name: {
                "seconds": min(times),
                "ratio": base_s / min(times),
                "error": ((self.features[name] - exact).norm() / exact.norm()).item(),
                "tflop_per_s": flop / min(times) / 1e12,
            }
            for name, times in self.seconds.items()
        }


def vit(width: int, depth: int, heads: int) -> ImageEncoderViT:
    """Return an encoder of SAM's architecture with random weights, relative positions included."""
    step = depth // 4
    encoder = ImageEncoderViT(
        embed_dim=width, depth=depth, num_heads=heads, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        window_size=14, global_attn_indexes=tuple(range(step - 1, depth, step)),
    )  # fmt: skip
    for name, weight in encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight, std=0.02)
    return encoder.eval().requires_grad_(False)


def flop_of(encoder: ImageEncoderViT) -> float:
    """Return the FLOP of the model's own matrix products for an image, without padding or folding; a product is 2."""
    width, tokens = encoder.pos_embed.shape[3], encoder.pos_embed.shape[1] * encoder.pos_embed.shape[2]
    layers = sum(module.weight.numel() for module in encoder.blocks.modules() if isinstance(module, nn.Linear))
    neighbours = sum(block.window_size**2 or tokens for block in encoder.blocks)
    neck = sum(module.weight.numel() for module in encoder.modules() if isinstance(module, nn.Conv2d))
    return float(tokens * (2 * (layers + neck) + FLOP_PER_TOKEN_PAIR * neighbours * width))


if __name__ == "__main__":
    main()
