"""Compare Mask R-CNN trained on a few photos with PerSAM given one of them."""

from persam_ray.benchmark.comparison import compare
from persam_ray.cli.demo import draw_photos
from persam_ray.options.benchmark import BenchmarkConfig


def benchmark(config: BenchmarkConfig) -> None:
    """Run the job, on drawn photos if asked for."""
    if config.demo:
        draw_photos(config.images)
    compare(config)
