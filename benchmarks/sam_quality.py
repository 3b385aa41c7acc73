"""How good is a SAM on drawn scenes? The figures of the demo model's card.

    python benchmarks/sam_quality.py [--sam demo] [--scenes 100] [--first-seed 1000000] [--references 5]

Prompts for all objects and groups (people, cars, ...) that cover enough of a scene, by one point (the pixel farthest
from the border) and by their exact box. Prints the IoU of the best of three candidates, as a mean over targets and as
summed intersection over summed union. Then prints the mIoU of PerSAM and PerSAM-F for `top` over the scenes in which it
covers more than 0.5% of the pixels, for each of several references. These are the first scenes in which `top` covers at
least 1%; a reference is not judged on itself. Ends with a JSON line.
"""

import argparse
import json

import numpy as np

from persam_ray.compact_sam.measures import evaluate
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.weights import locate
from persam_ray.demo.scenes import CLASS_INDICES, Scene, draw_scene
from persam_ray.images import resize_longest_side
from persam_ray.methods import persam, persam_f
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import BoolArray, Reference

PRESENT_FRACTION, REFERENCE_FRACTION = 0.005, 0.01
SHARES = (0.002, 0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", default="demo")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=1_000_000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    options = parser.parse_args()
    sam = Sam(read_checkpoint(locate(options.sam)), precision=options.precision)
    scenes = [draw_scene(seed) for seed in range(options.first_seed, options.first_seed + options.scenes)]
    results: dict[str, object] = {"sam": options.sam, "scenes": options.scenes, "first_seed": options.first_seed}

    for share in SHARES:
        quality = evaluate(sam, scenes, least_share=share)
        print(
            f"{quality.targets} objects and groups above {share:.1%}: best of three from a point "
            f"{quality.by_point:.3f} (summed {quality.summed_by_point:.3f}), from a box {quality.by_box:.3f} "
            f"(summed {quality.summed_by_box:.3f})"
        )
        results[f"above_{share}"] = vars(quality)
    rows = persam_rows(sam, scenes, options.references)
    means = {method: float(np.mean([row[method] for row in rows])) for method in ("persam", "persam_f")}
    print(f"mean over {len(rows)} references: PerSAM {means['persam']:.3f}, PerSAM-F {means['persam_f']:.3f}")
    print(json.dumps(results | {"top": rows, "top_mean": means}))


def persam_rows(sam: Sam, scenes: list[Scene], count: int) -> list[dict[str, float]]:
    """Return, for each reference, the mIoU of both methods: summed intersection over summed union."""
    features = [sam.encode([resize_longest_side(scene.image_hw3, sam.image_size_px)]) for scene in scenes]
    usable = [number for number, scene in enumerate(scenes) if top_of(scene).mean() >= REFERENCE_FRACTION]
    rows = []
    for number in usable[:count]:
        reference = [Reference("top", scenes[number].image_hw3, top_of(scenes[number]))]
        encoded = encode_references(sam, reference)
        target, target_f = persam.make_target(sam, encoded), persam_f.make_target_f(sam, encoded)
        sums = np.zeros((2, 2))
        judged = [other for other, scene in enumerate(scenes) if top_of(scene).mean() > PRESENT_FRACTION]
        for other in judged:
            if other == number:
                continue
            truth, frames = top_of(scenes[other]), [sam.frame(scenes[other].index_hw.shape)]
            found = persam.segment(sam, features[other], frames, [target]).wait()[0][0]
            found_f = persam_f.segment_f(sam, features[other], frames, [target_f]).wait()[0][0]
            for method, raw in enumerate((found, found_f)):
                mask = np.zeros_like(truth) if raw is None else raw.mask_hw.numpy()
                sums[method] += (mask & truth).sum(), (mask | truth).sum()
        mious = (sums[:, 0] / sums[:, 1]).tolist()
        print(f"top, reference {number}, {len(judged) - 1} scenes: PerSAM {mious[0]:.3f}, PerSAM-F {mious[1]:.3f}")
        rows.append({"reference": number, "persam": mious[0], "persam_f": mious[1]})
    return rows


def top_of(scene: Scene) -> BoolArray:
    """Return where the main people's tops are."""
    return np.asarray(scene.index_hw == CLASS_INDICES["top"])


if __name__ == "__main__":
    main()
