"""Scenes as a folder in DeepFashion-MultiModal's layout, which every job of this package reads."""

from pathlib import Path

from PIL import Image

from persam_ray.demo.scenes import draw_scene


def write_scene(folder: Path, seed: int, size_hw: tuple[int, int] = (560, 384)) -> None:
    """Write a scene below a folder: `images/<name>.jpg` with `segm/<name>_segm.png`, the photo last.

    The name holds the seed, so that folders written with other seeds can be merged.
    """
    photo, segm = _paths(folder, seed)
    for path in (photo, segm):
        path.parent.mkdir(parents=True, exist_ok=True)
    scene = draw_scene(seed, size_hw)
    Image.fromarray(scene.index_hw).save(segm, optimize=True)
    unfinished = photo.with_name(f".{photo.name}")
    unfinished.write_bytes(scene.jpeg)
    unfinished.replace(photo)


def is_written(folder: Path, seed: int) -> bool:
    """Return whether a scene lies below a folder, whole."""
    return all(path.exists() for path in _paths(folder, seed))


def _paths(folder: Path, seed: int) -> tuple[Path, Path]:
    name = f"scene_{seed:06d}"
    return folder / "images" / f"{name}.jpg", folder / "segm" / f"{name}_segm.png"
