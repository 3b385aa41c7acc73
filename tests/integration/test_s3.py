"""Input, references and output on s3://, over real HTTP."""

import json
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import s3fs
import torch

from persam_ray.data.storage import StorageError, remove
from persam_ray.images import resize_longest_side
from persam_ray.sam.model import Sam
from persam_ray.stages.cached_encoder import CachedEncoder
from persam_ray.stages.feature_cache import FeatureCache, open_cache
from tests.conftest import scene
from tests.integration.conftest import S3, JobHere, rows_of, save_photos

pytestmark = [pytest.mark.ray, pytest.mark.s3]


def test_photos_references_weights_and_results_in_a_bucket(
    job_here: JobHere, s3: S3, sam_file: str, reference: str, tmp_path: Path
) -> None:
    client = s3.client()
    client.create_bucket(Bucket="labels")
    photos = save_photos(tmp_path / "photos", 20)
    for path in photos.iterdir():
        client.upload_file(str(path), "labels", f"in/day 1/{path.name}")
    image, mask = reference.split(",")
    for name, local in (("cup.png", image), ("cup_mask.png", mask), ("sam.safetensors", sam_file)):
        client.upload_file(local, "labels", name)

    sharded = job_here(
        "shard", "--images", "s3://labels/in", "--output", "s3://labels/shards", "--images-per-shard", "7", env=s3.env
    )
    assert sharded.status == 0, sharded.stderr
    labeled = job_here(
        "label", "--images", "s3://labels/shards", "--output", "s3://labels/run/", "--sam", "s3://labels/sam.safetensors",
        "--reference", "cup=s3://labels/cup.png,s3://labels/cup_mask.png",
        "--feature-cache", "s3://labels/features", env=s3.env,
    )  # fmt: skip
    assert labeled.status == 0, labeled.stderr

    filesystem = pafs.S3FileSystem(
        access_key="test", secret_key="test", endpoint_override=s3.url.removeprefix("http://"), scheme="http"
    )
    rows = rows_of("labels/run", filesystem=filesystem)
    assert set(rows) == {f"day 1/{path.name}" for path in photos.iterdir()}
    assert {row["status"] for row in rows.values()} == {"ok"}
    manifest = json.loads(client.get_object(Bucket="labels", Key="run/manifest.json")["Body"].read())
    assert manifest["counts"]["images"] == 20
    names = [item["Key"] for item in client.list_objects_v2(Bucket="labels", Prefix="run/")["Contents"]]
    assert not [name for name in names if "probe" in name]
    kept = client.list_objects_v2(Bucket="labels", Prefix="features/")["Contents"]
    assert len(kept) == 20
    assert manifest["feature_cache"] == {"hits": 0, "misses": 20, "not_kept": 0, "failure": None}


def test_features_are_kept_in_a_bucket_found_there_and_missed_when_it_is_emptied(
    s3: S3, small_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3.client().create_bucket(Bucket="features")
    photos = [resize_longest_side(scene(60, 80, seed), small_sam.image_size_px) for seed in range(12)]
    cache = open_cache("s3://features/sam [b]", 1.0)
    assert cache == FeatureCache("s3://features/sam [b]", 10**9)
    found = []
    for round_ in range(3):
        if round_ == 2:
            remove(cache.uri)
        encoder = CachedEncoder(small_sam, small_sam.encoding, cache)
        features = encoder.encode(photos, encoder.ask(photos))
        torch.testing.assert_close(features, small_sam.encode(photos))
        found.append({outcome for outcome, _ in encoder.settle()})
    assert found == [{"miss"}, {"hit"}, {"miss"}]
    used = sum(item["Size"] for item in s3.client().list_objects_v2(Bucket="features")["Contents"])
    assert open_cache(cache.uri, 1.0) == FeatureCache(cache.uri, 10**9 - used)
    with pytest.raises(StorageError, match=r"^--feature-cache s3://no-such-bucket/x: cannot be written"):
        open_cache("s3://no-such-bucket/x", 1.0)
    s3fs.S3FileSystem.clear_instance_cache()
