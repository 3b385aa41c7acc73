"""Arrow schemas of the tables between the stages: READ rows (`data.schema`) come in, SUMMARY rows go out."""

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
        ("decode_s", pa.float64()),
    ]
)
"""Decoded photos: `pixels` is the RGB of the model frame as bytes, (pixels_height, pixels_width, 3) row by row.
`decode_s` is the time that decoding took, in seconds."""

LABELED = pa.schema(
    [
        *PREDICTIONS,
        ("annotations", pa.list_(ANNOTATION)),
        ("method", pa.string()),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("cache", pa.string()),
        ("cache_failure", pa.string()),
    ]
)
"""PREDICTIONS, and the columns that the writer needs besides: the ground truth, the method that made the prediction,
its seconds by step, and the outcome of the feature cache (`runs.effort.CacheOutcome`; null without a cache)."""

SUMMARY = pa.schema(
    [
        ("run", pa.string()),
        ("file", pa.string()),
        ("counts", pa.string()),
        ("judged", pa.binary()),
        ("effort", pa.string()),
    ]
)
"""One written file: its run and its name, `runs.counts.Counts` as JSON, the packed `metrics.summary.ShardSummary` (null
where no row has ground truth), and `runs.effort.Effort` as JSON."""

WRITTEN = pa.schema([("images", pa.int64()), ("problems", pa.list_(pa.string()))])
"""One written shard of IMAGES: its number of rows, and the errors of those that could not be read."""
