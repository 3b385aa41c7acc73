"""TODO stages.tables."""

from __future__ import annotations

import pyarrow as pa

from persam_ray.data.schema import ANNOTATION, PREDICTIONS, VERSION

PIXELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("pixels", pa.binary()),
        ("pixels_height", pa.int32()),
        ("pixels_width", pa.int32()),
        ("annotations", pa.list_(ANNOTATION)),
        ("error", pa.string()),
        VERSION,
    ]
)
"""`pixels` is the RGB of the model frame as bytes, (pixels_height, pixels_width, 3) row by row."""


LABELED = PREDICTIONS.append(pa.field("annotations", pa.list_(ANNOTATION))).append(pa.field("method", pa.string()))
"""PREDICTIONS with the ground truth still beside them, for the writer to compare, and the method that made them."""


SUMMARY = pa.schema([("run", pa.string()), ("counts", pa.string()), ("judged", pa.binary())])
"""What a writer's call came to: its run's name, parts.Counts as JSON, and the packed judging.ShardSummary or null."""


WRITTEN = pa.schema([("images", pa.int64()), ("problems", pa.list_(pa.string()))])
