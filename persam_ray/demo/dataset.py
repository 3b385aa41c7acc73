"""Scenes as a folder in DeepFashion-MultiModal's layout, which every job of this package reads."""

from pathlib import Path

from PIL import Image

from persam_ray.demo.scenes import draw_scene


def write_scenes(folder: Path, count: int, first_seed: int = 0, size_hw: tuple[int, int] = (560, 384)) -> None:
    """Write `count` scenes below a folder: `images/<name>.jpg` with `segm/<name>_segm.png`.

    The name holds the seed, so that folders written with other seeds can be merged.
    """
    images, segm = folder / "images", folder / "segm"
    images.mkdir(parents=True, exist_ok=True)
    segm.mkdir(exist_ok=True)
    for seed in range(first_seed, first_seed + count):
        scene = draw_scene(seed, size_hw)
        (images / f"scene_{seed:06d}.jpg").write_bytes(scene.jpeg)
        Image.fromarray(scene.index_hw).save(segm / f"scene_{seed:06d}_segm.png", optimize=True)
