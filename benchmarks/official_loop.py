"""The other side of `label_job.py`: a script in the style of the official one, photo after photo in float32.

    python benchmarks/official_loop.py --images photos/ --reference cup.jpg,cup_mask.png --sam SAM --output masks/

Loads SAM and sets the reference photo; then, for each photo: open, `SamPredictor.set_image`, three `predict` calls (a
point; with the mask as well; with its box as well), the mask written as PNG. Target embedding and similarity map are
left out: they cost next to nothing. Prints the seconds of the loop alone.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.sam.build import build_modules
from persam_ray.sam.model import PIXEL_MEAN, PIXEL_STD
from persam_ray.types import BoolArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--reference", required=True, metavar="IMAGE,MASK")
    parser.add_argument("--sam", required=True)
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    output = Path(options.output)
    output.mkdir(parents=True)
    modules = build_modules(read_checkpoint(options.sam))
    modules.image_encoder.img_size = modules.image_size_px  # type: ignore[assignment]  # SamPredictor asks for it; only the package's ViT has it
    parts = modules.image_encoder, modules.prompt_encoder, modules.mask_decoder
    predictor = SamPredictor(Sam(*parts, list(PIXEL_MEAN), list(PIXEL_STD)))
    predictor.set_image(opened(Path(options.reference.split(",")[0])))
    started_s = time.perf_counter()
    for photo in sorted(Path(options.images).iterdir()):
        Image.fromarray(segmented(predictor, photo)).save(output / f"{photo.stem}.png")
    print(time.perf_counter() - started_s)


def opened(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def segmented(predictor: SamPredictor, photo: Path) -> BoolArray:
    """Return the mask of the object in the middle of the photo."""
    image = opened(photo)
    predictor.set_image(image)
    point = {"point_coords": np.array([[image.shape[1] / 2, image.shape[0] / 2]]), "point_labels": np.array([1])}
    _, _, logits = predictor.predict(**point, multimask_output=False)
    masks, scores, logits = predictor.predict(**point, mask_input=logits[:1], multimask_output=True)
    best = int(scores.argmax())
    y, x = np.nonzero(masks[best] if masks[best].any() else np.ones_like(masks[best]))
    box = np.array([x.min(), y.min(), x.max(), y.max()])
    last = {"box": box[None], "mask_input": logits[best : best + 1], "multimask_output": True}
    masks, scores, _ = predictor.predict(**point, **last)
    return np.asarray(masks[int(scores.argmax())])


if __name__ == "__main__":
    main()
