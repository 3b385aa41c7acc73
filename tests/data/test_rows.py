"""Rows as Python values have the columns of their Arrow schemas."""

import pyarrow as pa
import pytest

from persam_ray.data import rows, schema


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (rows.AnnotationRow, pa.schema(list(schema.ANNOTATION))),
        (rows.ImageRow, schema.READ),
        (rows.InstanceRow, pa.schema(list(schema.INSTANCE))),
        (rows.PredictionRow, schema.PREDICTIONS),
        (rows.MatchRow, schema.MATCHES),
    ],
)
def test_a_row_has_the_columns_of_its_schema_in_their_order(row: type, columns: pa.Schema) -> None:
    assert list(row.__annotations__) == columns.names
