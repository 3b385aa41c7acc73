"""How long does PerSAM-F's fit take, against the official loop that decodes 1,000 times? Both on the same model.

    python benchmarks/persam_f_fit.py CHECKPOINT IMAGE MASK [--official-steps 20]

The official loop is timed for a few steps and scaled to 1,000.
"""

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.images import decode_image, decode_mask
from persam_ray.methods.mask_weights import STEPS, ScaleMixingLoss, fit_mask_weights
from persam_ray.methods.persam_f import locate_f, make_target_f
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import Reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "image", "mask"):
        parser.add_argument(name)
    parser.add_argument("--official-steps", type=int, default=20)
    options = parser.parse_args()
    sam = Sam(read_checkpoint(options.checkpoint), precision="float32")
    mask = decode_mask(Path(options.mask).read_bytes())
    reference = Reference("target", decode_image(Path(options.image).read_bytes()), mask)
    target = make_target_f(sam, encode_references(sam, [reference]))  # warms up
    features = encode_references(sam, [reference])[0].features_1chw
    frame = sam.frame(mask.shape)
    points = locate_f(sam, features, [frame], [target]).points

    started_s = time.perf_counter()
    logits = sam.to_original(sam.decode(features, points, multimask=True).logits_nkhw[0], frame)
    weights = fit_mask_weights([ScaleMixingLoss(logits, torch.from_numpy(mask))])
    ours_s = time.perf_counter() - started_s

    free = torch.nn.Parameter(torch.ones(2) / 3)
    optimizer = torch.optim.AdamW([free], lr=1e-3, eps=1e-4)
    truth = torch.from_numpy(mask).float().flatten()
    started_s = time.perf_counter()
    for _ in range(options.official_steps):
        logits = sam.to_original(sam.decode(features, points, multimask=True).logits_nkhw[0], frame).clone().flatten(1)
        mixed = (logits * torch.cat([1 - free.sum()[None], free])[:, None]).sum(0)
        p = mixed.sigmoid()
        dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
        p_t = p * truth + (1 - p) * (1 - truth)
        alpha = 0.25 * truth + 0.75 * (1 - truth)
        cross_entropy = F.binary_cross_entropy_with_logits(mixed, truth, reduction="none")
        optimizer.zero_grad()
        (dice + (alpha * cross_entropy * (1 - p_t) ** 2).mean()).backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
    official_s = (time.perf_counter() - started_s) * STEPS / options.official_steps

    print(f"photo {mask.shape[1]} x {mask.shape[0]}, weights {[round(value, 4) for value in weights.tolist()]}")
    print(f"ours {ours_s:.2f} s, official loop {official_s:.0f} s: {official_s / ours_s:.0f} times faster")


if __name__ == "__main__":
    main()
