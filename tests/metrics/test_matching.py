"""Greedy matching against pycocotools."""

import numpy as np
from pycocotools.cocoeval import COCOeval

from persam_ray.metrics.matching import match_greedily
from persam_ray.metrics.summary import AREA_RANGES_PX


def test_greedy_matching_is_that_of_cocoeval_where_ious_tie_and_truths_are_ignored() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        detections, truths = rng.integers(1, 9), rng.integers(1, 7)
        ious_dg = rng.choice([0.0, 0.4, 0.5, 0.55, 0.7, 0.75, 0.95, 1.0], (detections, truths))
        crowd_g = rng.random(truths) < 0.3
        areas_g = rng.choice([10.0, 1024.0, 5000.0, 9216.0, 20_000.0], truths)
        evaluation = COCOeval(iouType="segm")
        evaluation.ious[1, 1] = ious_dg
        evaluation._gts[1, 1] = [
            {"id": g + 1, "area": areas_g[g], "iscrowd": crowd_g[g], "ignore": crowd_g[g]} for g in range(truths)
        ]
        evaluation._dts[1, 1] = [{"id": d + 1, "area": 100.0, "score": 1 - d / 10} for d in range(detections)]
        low_a, high_a = AREA_RANGES_PX.T[:, :, None]
        ignored_ag = crowd_g | (areas_g < low_a) | (areas_g > high_a)
        match_atd = match_greedily(ious_dg, ignored_ag, crowd_g)
        for area, range_px in enumerate(AREA_RANGES_PX):
            expected = evaluation.evaluateImg(1, 1, range_px, 100)["dtMatches"]
            np.testing.assert_array_equal(match_atd[area] + 1, expected)
