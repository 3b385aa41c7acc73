"""Counts of rows, and why some failed."""

import pytest

from persam_ray.runs.counts import Counts, reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("the file cannot be read: s3://bucket/a.jpg: not found", "the file cannot be read"),
        (
            "70000 x 70000 pixels is more than the 134 megapixels allowed",
            "N x N pixels is more than the N megapixels allowed",
        ),
        ("not an image (cannot identify image file)", "not an image"),
        ("", "unknown"),
    ],
)
def test_failures_are_grouped_by_what_was_wrong_without_particulars(error: str, kind: str) -> None:
    assert reason(error) == kind


def test_rare_reasons_are_summed_up() -> None:
    many = [Counts(1, 0, 1, 0, {f"reason {chr(97 + number)}": 1}) for number in range(26)]
    total = sum(many, Counts())
    assert total.failed == sum(total.reasons.values()) == 26
    assert total.reasons["other"] == 6
    assert Counts.from_json(total.to_json()) == total
