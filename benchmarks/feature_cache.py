"""How much faster is a photo whose features are cached? Through the actors' own stage, without Ray.

    python benchmarks/feature_cache.py --images photos/ [--sam vit_b_random] [--photos 8] [--repeats 3]
                                       [--precision auto]

Decoded photos go through `SegmentWithSam` with one target of PerSAM, in turn on the same machine

- plain: without a cache;
- miss: with an empty one, which it fills;
- hit: with the filled one;

the last two with a local folder and with a bucket of moto's S3 server (the `test` extra), which runs beside them and
shares the CPUs. Prints the median seconds a photo of the whole stage and of its step `encode` (on a hit: waiting for
features), ratios and a JSON line. Checks that all three give the same rows, to the bit.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import torch
from label_job import SUFFIXES, random_vit_b

from persam_ray.data.checkpoints import read_checkpoint
from persam_ray.data.schema import PREDICTIONS, READ
from persam_ray.data.storage import remove
from persam_ray.data.weights import locate
from persam_ray.images import decode_image, resized_size_hw
from persam_ray.methods.persam import make_target
from persam_ray.methods.references import encode_references
from persam_ray.sam.model import Sam
from persam_ray.stages.decode import DecodeImages
from persam_ray.stages.feature_cache import FeatureCache
from persam_ray.stages.progress import nowhere
from persam_ray.stages.segment import SegmentWithSam
from persam_ray.stages.targets import SegmentOptions
from persam_ray.stages.write import effort_of
from persam_ray.types import Checkpoint, Reference, Target

ROOM_BYTES = 10**12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--sam", default="vit_b_random")
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    found = sorted(path for path in Path(options.images).rglob("*") if path.suffix.lower() in SUFFIXES)
    photos = list(islice(found, options.photos))
    segment = SegmentOptions("cpu", torch.get_num_threads(), 1, options.precision, "aligned")
    with tempfile.TemporaryDirectory() as folder, s3_bucket() as bucket:
        work = Path(folder)
        checkpoint = read_checkpoint(str(random_vit_b(work)) if options.sam == "vit_b_random" else locate(options.sam))
        table, target = prepared(Sam(checkpoint, "cpu", options.precision), photos)
        places = {"folder": str(work / "features"), "S3": f"{bucket}/features"}
        seconds = measured(checkpoint, target, segment, table, places, options.repeats)
    report(seconds, options.sam, options.precision, len(photos), options.repeats)


@contextmanager
def s3_bucket() -> Iterator[str]:
    """Run an S3 server with a bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        boto3.client("s3").create_bucket(Bucket="benchmark")  # which waits and tries again while the server starts
        yield "s3://benchmark"
    finally:
        server.terminate()
        server.wait()


def prepared(sam: Sam, photos: list[Path]) -> tuple[pa.Table, Target]:
    """Return PIXELS rows of photos, and a target: the middle of the first."""
    rows: list[dict[str, Any]] = [
        dict.fromkeys(READ.names) | {"image_id": photo.name, "image": photo.read_bytes()} for photo in photos
    ]
    decode = DecodeImages(partial(resized_size_hw, image_size_px=sam.image_size_px))
    image_hw3 = decode_image(rows[0]["image"])
    height, width = image_hw3.shape[:2]
    mask_hw = np.zeros((height, width), dtype=bool)
    mask_hw[height // 4 : -height // 4, width // 4 : -width // 4] = True
    return decode(pa.Table.from_pylist(rows, READ)), make_target(
        sam, encode_references(sam, [Reference("target", image_hw3, mask_hw)])
    )


class Measured:
    """A stage, and the seconds that its calls took."""

    def __init__(self, checkpoint: Checkpoint, target: Target, options: SegmentOptions) -> None:
        self._stage = SegmentWithSam(lambda: (checkpoint, {"persam": [target]}), options, nowhere)

    def __call__(self, table: pa.Table) -> tuple[pa.Table, float, float]:
        """Return the predictions, the seconds of the whole call and those of the step `encode`."""
        started_s = time.perf_counter()
        rows = self._stage(table)
        spent_s = time.perf_counter() - started_s
        return rows.select(PREDICTIONS.names), spent_s, effort_of(rows).seconds["encode"]


def measured(
    checkpoint: Checkpoint,
    target: Target,
    options: SegmentOptions,
    table: pa.Table,
    places: dict[str, str],
    repeats: int,
) -> dict[str, tuple[float, float]]:
    """Return medians of seconds a photo by side: of the whole stage, and of its encoding."""
    plain = Measured(checkpoint, target, options)
    caching = {
        name: Measured(checkpoint, target, replace(options, cache=FeatureCache(uri, ROOM_BYTES)))
        for name, uri in places.items()
    }
    expected, _, _ = plain(table.slice(0, 1))  # warms up
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(repeats):
        expected, *seconds = plain(table)
        taken["plain"].append((seconds[0], seconds[1]))
        for name, uri in places.items():
            remove(uri)
            for side in ("miss", "hit"):
                rows, *seconds = caching[name](table)
                assert rows.equals(expected), f"{side}, {name}: other rows"
                taken[f"{side}, {name}"].append((seconds[0], seconds[1]))
    photos = len(table)
    return {
        side: (median(whole for whole, _ in each) / photos, median(encode for _, encode in each) / photos)
        for side, each in taken.items()
    }


def report(seconds: dict[str, tuple[float, float]], sam: str, precision: str, photos: int, repeats: int) -> None:
    """Print seconds, ratios and the JSON line."""
    whole, encode = seconds["plain"]
    print(f"{'s a photo':14} {'stage':>9} {'encode':>9} {'plain / it':>12} {'of encode':>12}")
    for side, (own_whole, own_encode) in seconds.items():
        print(f"{side:14} {own_whole:9.4f} {own_encode:9.4f} {whole / own_whole:12.2f} {encode / own_encode:12.1f}")
    settings = {"sam": sam, "precision": precision, "photos": photos, "repeats": repeats}
    print(json.dumps(settings | {"threads": torch.get_num_threads(), "seconds": seconds}))


if __name__ == "__main__":
    main()
