"""A small annotated dataset in DeepFashion-MultiModal's layout."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import disc, scene

CLASSES = {"top": 1, "pants": 5}


def save_fashion(folder: Path, photos: int, *, without_top: int = 0) -> Path:
    """Write photos p00.jpg, ... with a disc; it is a top, but pants in the last `without_top` of them."""
    for part in ("images", "segm"):
        (folder / part).mkdir(parents=True)
    for index in range(photos):
        size = (60 + 5 * (index % 12), 80)
        save_photo(folder, f"p{index:02}", size, "pants" if index >= photos - without_top else "top")
    return folder


def save_photo(folder: Path, name: str, size: tuple[int, int], category: str) -> None:
    """Write one photo and its index map."""
    Image.fromarray(scene(*size, seed=sum(map(ord, name)))).save(folder / "images" / f"{name}.jpg")
    index_map = disc(*size).astype(np.uint8) * CLASSES[category]
    Image.fromarray(index_map).save(folder / "segm" / f"{name}_segm.png")
