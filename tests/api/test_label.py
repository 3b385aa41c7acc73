"""Options of the label job from Python: what they become, and what stops the call before any work."""

from pathlib import Path
from typing import Any

import pytest

import persam_ray as pr
from persam_ray.api.label import _config
from persam_ray.options.label import LabelConfig

PAIRS: dict[str, Any] = {"cup": [("cup.jpg", "cup_mask.png")]}


def config(references: Any = PAIRS, **options: Any) -> LabelConfig:
    return _config("photos", Path("labels"), references, options)


def test_paths_and_lists_become_what_the_command_line_gives() -> None:
    made = config({"cup": [[Path("a.jpg"), "b.png"]], "jug": []}, sam=Path("sam.pth"), feature_cache=Path("features"))
    assert made.reference == ("cup=a.jpg,b.png",)
    assert (made.output, made.sam, made.feature_cache) == ("labels", "sam.pth", "features")
    made = config(Path("annotated"), category="cup", reference_ids=["a", "b"], max_failed_fraction=0)
    assert (made.references, made.category, made.reference_ids) == ("annotated", ("cup",), ("a", "b"))
    assert made.max_failed_fraction == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "nope"}, "--guidance must be aligned or official, but is 'nope'"),
        ({"method": "nope"}, "--method must be persam or persam_f, but is 'nope'"),
        ({"precision": "fp8"}, "--precision must be auto, float32 or bfloat16, but is 'fp8'"),
        ({"format": None}, "--format must be auto, .* or deepfashion, but is None"),
        ({"log": "nope"}, "--log must be text or json"),
        ({"batch_size": "2"}, r"--batch-size must be int \| None, but is '2'"),
        ({"actors": 1.5}, r"--actors must be int \| None, but is 1.5"),
        ({"max_failed_fraction": "0.1"}, "--max-failed-fraction must be float, but is '0.1'"),
        ({"overwrite": "yes"}, "--overwrite must be bool, but is 'yes'"),
        ({"sam": 3}, "--sam must be str, but is 3"),
        ({"images_per_s": 1}, "unknown option 'images_per_s'; allowed are actors, "),
        ({"demo": True}, "unknown option 'demo'"),
        ({"references": "annotated", "category": ["cup", 1]}, r"--category must be .*, but is \('cup', 1\)"),
        (
            {"references": {"cup": ("cup.jpg", "cup_mask.png")}},
            r"lists of \(photo, mask\) .* one is 'cup.jpg' of 'cup'",
        ),
        ({"references": {1: PAIRS["cup"]}}, r"lists of \(photo, mask\) by category, .* of 1"),
        ({"references": {"cup": [("cup.jpg", None)]}}, "references must be lists"),
        ({"references": {"": PAIRS["cup"]}}, "--reference must have the form"),
        ({"references": [("cup", "cup.jpg", "cup_mask.png")]}, r"--references must be str \| None"),
        ({"references": {}}, "give --reference"),
    ],
)
def test_a_bad_option_is_named_with_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pr.PersamRayError, match=message):
        config(**options)
