"""How fast is the label job? Against a plain loop in the official style, and against its own model alone.

    python benchmarks/label_job.py --images photos/ --reference cup.jpg,cup_mask.png [--sam vit_b_random] [--photos 48]
                                   [--categories 8]

Three sides take the same photos and weights, one after the other on the same machine:

- loop: `official_loop.py`, one photo at a time in float32 as the official script does, from the command to its end;
- model: our encoder and decoder alone, on photos that are decoded and resized already;
- job: `jobs/label.py`, from the command to its end; once more with several categories.

Prints seconds a photo, ratios and a JSON line. `vit_b_random` is ViT-B's shape with random weights, which measures
time, not quality.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from persam_ray.compute.host_memory import keep_freed_memory
from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.weights import locate
from persam_ray.images import decode_image, decode_mask, resize_longest_side
from persam_ray.methods import persam
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.types import Checkpoint, Reference

ROOT = Path(__file__).parents[1]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--reference", required=True, metavar="IMAGE,MASK")
    parser.add_argument("--sam", default="vit_b_random")
    parser.add_argument("--photos", type=int, default=48)
    parser.add_argument("--categories", type=int, default=8)
    options = parser.parse_args()
    found = sorted(path for path in Path(options.images).rglob("*") if path.suffix.lower() in SUFFIXES)
    photos = list(islice(found, options.photos))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        uri = str(random_vit_b(work)) if options.sam == "vit_b_random" else locate(options.sam)
        checkpoint = read_checkpoint(uri)
        copied(work / "images", photos)
        loop, loop_alone = loop_s(work, uri, options.reference)
        seconds = {"loop": loop, "its photos": loop_alone, "model": model_s(checkpoint, photos, options.reference)}
        for categories in (1, options.categories):
            whole_s, label_s = job_s(work, uri, options.reference, categories)
            seconds |= {f"job, {categories} categories": whole_s, f"its labeling, {categories} categories": label_s}
    report(seconds, len(photos), options.categories, options.sam)


def random_vit_b(work: Path) -> Path:
    """Write a checkpoint of ViT-B's shape."""
    torch.manual_seed(0)
    path = work / "vit_b_random.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in sam_model_registry["vit_b"]().state_dict().items()}, path)
    return path


def copied(folder: Path, photos: list[Path]) -> None:
    """Copy photos into a folder of their own."""
    folder.mkdir()
    for number, photo in enumerate(photos):
        (folder / f"{number:05}{photo.suffix}").write_bytes(photo.read_bytes())


def loop_s(work: Path, uri: str, reference: str) -> tuple[float, float]:
    """Return the seconds of the official loop from command to end, and of its photos alone."""
    command = [sys.executable, "benchmarks/official_loop.py", "--images", str(work / "images"), "--sam", uri]
    command += ["--reference", reference, "--output", str(work / "masks")]
    started_s = time.perf_counter()
    said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - started_s, float(said)


def model_s(checkpoint: Checkpoint, photos: list[Path], reference: str) -> float:
    """Return the seconds of the encoder and PerSAM on decoded photos."""
    keep_freed_memory()
    sam = Sam(checkpoint)
    image, mask = (Path(path).read_bytes() for path in reference.split(","))
    shown = Reference("target", decode_image(image), decode_mask(mask))
    target = persam.make_target(sam, encode_references(sam, [shown]))
    decoded = [decode_image(photo.read_bytes()) for photo in photos]
    resized = [resize_longest_side(photo, sam.image_size_px) for photo in decoded]
    started_s = time.perf_counter()
    for photo, small in zip(decoded, resized, strict=True):
        frame = sam.frame((photo.shape[0], photo.shape[1]))
        persam.segment(sam, sam.encode([small]), [frame], [target]).wait()
    return time.perf_counter() - started_s


def job_s(work: Path, uri: str, reference: str, categories: int) -> tuple[float, float]:
    """Return the seconds of the job from command to end, and of its labeling alone (by its manifest)."""
    images, output = work / "images", work / f"labels-{categories}"
    command = [sys.executable, "jobs/label.py", "--images", str(images), "--output", str(output), "--sam", uri]
    for number in range(categories):
        command += ["--reference", f"category-{number}={reference}"]
    started_s = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    whole_s = time.perf_counter() - started_s
    return whole_s, json.loads((output / "manifest.json").read_text())["seconds"]["label"]


def report(seconds: dict[str, float], photos: int, categories: int, sam: str) -> None:
    """Print seconds, ratios and the JSON line."""
    for side, spent_s in seconds.items():
        print(f"{side:40} {spent_s:8.2f} s  {1000 * spent_s / photos:8.1f} ms a photo")
    one, several = "job, 1 categories", f"job, {categories} categories"
    ratios = {
        "loop / job": seconds["loop"] / seconds[one],
        "photos of the loop / labeling of the job": seconds["its photos"] / seconds["its labeling, 1 categories"],
        "photos of the loop / model": seconds["its photos"] / seconds["model"],
        "model / its labeling": seconds["model"] / seconds["its labeling, 1 categories"],
        f"{categories} categories / 1": seconds[several] / seconds[one],
    }
    for name, ratio in ratios.items():
        print(f"{name:40} {ratio:8.2f}")
    print(json.dumps({"sam": sam, "photos": photos, "threads": torch.get_num_threads(), **seconds, **ratios}))


if __name__ == "__main__":
    main()
