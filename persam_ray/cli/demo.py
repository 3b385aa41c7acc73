"""`--demo`: photos drawn on the spot, the bundled SAM, and options that finish in minutes on two cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from persam_ray.console import console, show_progress
from persam_ray.errors import ConfigError
from persam_ray.options.base import OutputConfig
from persam_ray.options.benchmark import BenchmarkConfig
from persam_ray.options.label import LabelConfig

FOLDER = "demo"
SCENES = f"{FOLDER}/scenes"
TRAIN_SCENES, TEST_SCENES = 10, 60

OPTIONS: Mapping[type[OutputConfig], Mapping[str, str]] = {
    BenchmarkConfig: {
        "--images": SCENES,
        "--category": "top",
        "--train-images": str(TRAIN_SCENES),
        "--test-images": str(TEST_SCENES),
        "--backbone": "mobilenet_v2",
        "--start": "none",
        "--steps": "100",
        "--sam": "demo",
        "--output": f"{FOLDER}/benchmark",
        "--overwrite": "",
    },
    LabelConfig: {
        "--images": SCENES,
        "--references": SCENES,
        "--reference-ids": "scene_000026.jpg",
        "--category": "top",
        "--method": "persam_f",
        "--sam": "demo",
        "--output": f"{FOLDER}/labels",
        "--overwrite": "",
    },
}
"""Options that `--demo` adds unless they are given. The reference is the one that the benchmark chooses."""

ONLY_BESIDE = {"--reference-ids": ("--references", "--category")}
"""Demo options that are dropped if one of these others is given, because they only fit the demo's own."""


def options(config_class: type[OutputConfig], given: Sequence[str]) -> list[str]:
    """Return the flags that `--demo` adds.

    Args:
        config_class: The job's options class.
        given: Names of the given flags.

    Raises:
        ConfigError: A given flag names other photos.
    """
    if "--demo" not in given or config_class not in OPTIONS:  # tyro says that the others have no such option
        return []
    for name in ("--images", "--annotations", "--reference"):
        if name in given:
            raise ConfigError(f"--demo draws its own photos: leave {name} out")
    return [
        f"{name}={value}" if value else name
        for name, value in OPTIONS[config_class].items()
        if not {name, *ONLY_BESIDE.get(name, ())} & set(given)
    ]


def draw_photos(folder: str) -> None:
    """Draw the demo's photos into a local folder, on all cores; photos that exist already are kept."""
    from persam_ray.demo.dataset import is_written, write_scene

    path = Path(folder)
    missing = [seed for seed in range(TRAIN_SCENES + TEST_SCENES) if not is_written(path, seed)]
    if not missing:
        return
    done: list[int] = []
    spawn = multiprocessing.get_context("spawn")  # a forked child would inherit locks of the progress bar's thread
    workers = min(len(missing), len(os.sched_getaffinity(0)))
    with (
        show_progress("drawing photos", len(missing), lambda: (len(done), 0)),
        ProcessPoolExecutor(workers, mp_context=spawn) as pool,
    ):
        for future in as_completed([pool.submit(partial(write_scene, path), seed) for seed in missing]):
            future.result()
            done.append(1)
    console.print(f"drew {len(missing)} photos into {path}")
