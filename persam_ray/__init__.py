"""Label a bucket of photos from one reference photo and mask.

    import persam_ray as pr

    cup = pr.Reference.open("cup", "cup.jpg", "cup_mask.png")
    labeler = pr.Labeler("vit_b", [cup])                        one photo at a time, in this process
    pr.label(images="photos", references={"cup": [("cup.jpg", "cup_mask.png")]}, output="labels")         on Ray
    for photo in pr.read_predictions("labels"): ...

Names are loaded when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persam_ray.api.label import label
    from persam_ray.api.labeler import Labeler, load_sam
    from persam_ray.api.predictions import LabeledInstance, LabeledPhoto, read_predictions
    from persam_ray.api.reference import Reference
    from persam_ray.errors import PersamRayError
    from persam_ray.types import Segmentation

__version__ = "0.1.0"

__all__ = [
    "LabeledInstance",
    "LabeledPhoto",
    "Labeler",
    "PersamRayError",
    "Reference",
    "Segmentation",
    "label",
    "load_sam",
    "read_predictions",
]

_HOMES = {
    "LabeledInstance": "api.predictions",
    "LabeledPhoto": "api.predictions",
    "Labeler": "api.labeler",
    "PersamRayError": "errors",
    "Reference": "api.reference",
    "Segmentation": "types",
    "label": "api.label",
    "load_sam": "api.labeler",
    "read_predictions": "api.predictions",
}


def __getattr__(name: str) -> object:
    """Load a public name, and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'persam_ray' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(f"persam_ray.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
