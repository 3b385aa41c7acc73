"""READ rows for tests of stages."""

from typing import Any

import numpy as np
import pyarrow as pa

from persam_ray.data.annotations import from_mask
from persam_ray.data.schema import READ
from tests.encoded_images import encoded

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


ENCODED = encoded(PHOTO)


MASK = np.zeros((40, 60), np.bool_)


MASK[10:20, 10:30] = True  # 200 pixels


CUP = from_mask("cup", MASK)


def read_row(image_id: str, **fields: Any) -> dict[str, Any]:
    return {"image_id": image_id, "image": ENCODED, **fields}


def read_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=READ)
