"""Input, references and output on s3://, over real HTTP."""

import json
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.integration.conftest import S3, Job, rows_of, save_photos

pytestmark = [pytest.mark.ray, pytest.mark.s3]


def test_photos_references_weights_and_results_in_a_bucket(
    job: Job, s3: S3, sam_file: str, reference: str, tmp_path: Path
) -> None:
    client = s3.client()
    client.create_bucket(Bucket="labels")
    photos = save_photos(tmp_path / "photos", 20)
    for path in photos.iterdir():
        client.upload_file(str(path), "labels", f"in/day 1/{path.name}")
    image, mask = reference.split(",")
    for name, path in (("cup.png", image), ("cup_mask.png", mask), ("sam.safetensors", sam_file)):
        client.upload_file(path, "labels", name)

    sharded = job(
        "shard", "--images", "s3://labels/in", "--output", "s3://labels/shards", "--images-per-shard", "7", env=s3.env
    )
    assert sharded.status == 0, sharded.stderr
    labeled = job(
        "label", "--images", "s3://labels/shards", "--output", "s3://labels/run/", "--sam", "s3://labels/sam.safetensors",
        "--reference", "cup=s3://labels/cup.png,s3://labels/cup_mask.png", env=s3.env,
    )  # fmt: skip
    assert labeled.status == 0, labeled.stderr
    assert labeled.left_behind == []

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
