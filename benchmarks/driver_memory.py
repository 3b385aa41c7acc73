"""Does the driver's memory grow with the number of photos?

    python benchmarks/driver_memory.py CHECKPOINT [--photos 100 --photos 1000]

Labels folders of small synthetic photos, each in a process of its own, and prints the highest resident memory of that
process alone (workers are others): pixels, masks and predictions never pass through it.
"""

import argparse
import multiprocessing
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from jobs.label import label
from persam_ray.config import LabelConfig

SAMPLE_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--photos", type=int, action="append")
    options = parser.parse_args()
    for photos in options.photos or [100, 1000]:
        with tempfile.TemporaryDirectory() as folder:
            save_photos(Path(folder), photos)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak_mib = pool.apply(peak_of_a_run, (folder, options.checkpoint))
        print(f"{photos:6} photos: driver's peak {peak_mib:.0f} MiB")


def save_photos(folder: Path, count: int) -> None:
    """Write photos of 96 x 128 pixels, a reference and its mask."""
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 255, (96, 128, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index:06}.jpg")
    mask = np.zeros((96, 128), dtype=np.uint8)
    mask[20:70, 30:90] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def peak_of_a_run(folder: str, checkpoint: str) -> float:
    """Label the folder in this process and return its highest resident memory in MiB."""
    process, peak, ended = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    first = f"{folder}/photos/000000.jpg"
    label(
        LabelConfig(
            images=f"{folder}/photos",
            output=f"{folder}/run",
            reference=(f"thing={first},{folder}/mask.png",),
            sam=checkpoint,
        )
    )
    ended.set()
    watcher.join()
    return peak[0] / 2**20


if __name__ == "__main__":
    main()
