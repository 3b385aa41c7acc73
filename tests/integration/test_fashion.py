"""240 real photos and a small real SAM, where they lie beside the repository: figures of the official arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from persam_ray.data.deepfashion import DEEPFASHION_CATEGORIES
from tests.conftest import shared
from tests.integration.conftest import JobHere, manifest_of, rows_of

pytestmark = pytest.mark.ray

# mIoU of the official arithmetic with street_sam in float32, from ../shared/README.md: persam, persam_f.
EXPECTED = {"top": (0.237, 0.329), "pants": (0.469, 0.668), "bag": (0.243, 0.458)}
REFERENCES = {
    "top": "CCP-Street-id_00000001-01_full.jpg",
    "pants": "CCP-Street-id_00000003-01_full.jpg",
    "bag": "CCP-Street-id_00000005-01_full.jpg",
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache: the photos are encoded once for both methods."""
    return str(tmp_path_factory.mktemp("features"))


@pytest.mark.parametrize(("method", "categories"), [("persam_f", ("top",)), ("persam", ("bag",))])
def test_both_methods_give_the_known_figures_on_real_photos(
    job_here: JobHere, tmp_path: Path, features: str, method: str, categories: tuple[str, ...]
) -> None:
    fashion, sam = shared("fashion"), shared("street_sam.safetensors")
    references = [
        text for category in categories for text in ("--reference", reference_pair(fashion, category, tmp_path))
    ]
    finished = job_here(
        "label", "--images", str(fashion), *references, "--sam", str(sam),
        "--output", str(tmp_path / "run"), "--method", method, "--precision", "float32", "--guidance", "official",
        "--feature-cache", features,
    )  # fmt: skip
    assert finished.status == 0, finished.stderr
    assert manifest_of(tmp_path / "run")["counts"]["images"] == 240
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 240
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["categories"]) == set(categories)
    for category in categories:
        found = miou(rows, fashion, category)
        assert found == pytest.approx(EXPECTED[category][method == "persam_f"], abs=0.01), category


def truth_of(fashion: Path, image_id: str, category: str) -> np.ndarray:
    index_map = np.asarray(Image.open(fashion / "segm" / f"{Path(image_id).stem}_segm.png"))
    return np.asarray(index_map == DEEPFASHION_CATEGORIES.index(category))


def reference_pair(fashion: Path, category: str, folder: Path) -> str:
    """Return CATEGORY=IMAGE,MASK with the mask written as a file of its own."""
    mask = folder / f"{category}.png"
    Image.fromarray(truth_of(fashion, REFERENCES[category], category)).save(mask)
    return f"{category}={fashion / 'images' / REFERENCES[category]},{mask}"


def miou(rows: dict[str, dict[str, object]], fashion: Path, category: str) -> float:
    """Summed intersection over summed union, over photos with more than 0.5% of the category, but the reference."""
    intersection = union = 0
    for image_id, row in rows.items():
        truth = truth_of(fashion, image_id, category)
        if image_id == REFERENCES[category] or truth.mean() <= 0.005:
            continue
        found = np.zeros_like(truth)
        for instance in row["instances"]:  # type: ignore[attr-defined]  # rows are plain values
            if instance["category"] == category:
                found = coco_mask.decode({"size": truth.shape, "counts": instance["rle"].encode()}).astype(bool)
        intersection += int((found & truth).sum())
        union += int((found | truth).sum())
    return intersection / union
