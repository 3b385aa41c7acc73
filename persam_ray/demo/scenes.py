"""Scenes: a place, people, and a camera, from one seed.

A street-style photo of 560 x 384 pixels takes about a quarter of a second. The place is painted and blurred, then come
passers-by in the distance and the main person (or two). At the end the camera adds exposure, blur and noise.
"""

import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from persam_ray.demo.backgrounds import PLACES, paint_background
from persam_ray.demo.camera import develop, random_camera
from persam_ray.demo.canvas import Canvas, IntArray, Light
from persam_ray.demo.chance import happens, pick
from persam_ray.demo.outfits import Dressed, random_fabric, random_person
from persam_ray.demo.pieces import paint_figure, silhouette
from persam_ray.demo.props import pole
from persam_ray.demo.shapes import Outline, Point, ellipse, points
from persam_ray.demo.surfaces import View, random_view
from persam_ray.types import BoolArray, ByteArray

CLASS_INDICES = {
    "top": 1, "outer": 2, "skirt": 3, "dress": 4, "pants": 5, "leggings": 6, "headwear": 7, "eyeglass": 8,
    "neckwear": 9, "belt": 10, "footwear": 11, "bag": 12, "hair": 13, "face": 14, "skin": 15, "socks": 18,
    "necklace": 20, "rompers": 21,
}  # fmt: skip
"""DeepFashion-MultiModal's indices of what is drawn; all else is 0, background."""

SMALL_FIGURE = 0.4
"""A passer-by below this share of the picture's height is one object; a larger one's clothes are objects too."""

STRONG_SUN = 0.5
"""Figures cast shadows on the ground if the light's shadows are deeper than this."""

PLACE_WEIGHTS = {"street": 38.0, "wall": 24.0, "shop": 14.0, "park": 12.0, "room": 12.0}
assert PLACE_WEIGHTS.keys() == PLACES.keys()


@dataclass(frozen=True)
class Scene:
    """A photo with its ground truth.

    Attributes:
        jpeg: The photo as a file.
        image_hw3: The photo, decoded from `jpeg`: uint8 RGB.
        index_hw: DeepFashion-MultiModal's class of every pixel, uint8; only the main people are labelled.
        place: A key of `PLACES`.
        people: Main people, 1 or 2.
        object_map_hw: Number of the thing in front at every pixel, int16.
        object_labels: Label by number.
        object_groups: The group that a number belongs to (a person, a car), 0 for none.
        group_labels: Label by group.
    """

    jpeg: bytes = field(repr=False)
    image_hw3: ByteArray = field(repr=False)
    index_hw: ByteArray = field(repr=False)
    place: str
    people: int
    object_map_hw: IntArray = field(repr=False)
    object_labels: tuple[str, ...] = field(repr=False)
    object_groups: tuple[int, ...] = field(repr=False)
    group_labels: tuple[str, ...] = field(repr=False)

    @property
    def objects(self) -> tuple[tuple[str, BoolArray], ...]:
        """All visible objects, as label and visible pixels (h, w); no two share a pixel."""
        return tuple(
            (self.object_labels[number], self.object_map_hw == number) for number in np.unique(self.object_map_hw)
        )

    @property
    def groups(self) -> tuple[tuple[str, BoolArray], ...]:
        """All visible groups of objects (a person, a car, a building), as label and visible pixels (h, w)."""
        map_hw = np.asarray(self.object_groups, dtype=np.int16)[self.object_map_hw]
        return tuple((self.group_labels[group], map_hw == group) for group in np.unique(map_hw) if group > 0)


def draw_scene(
    seed: int, size_hw: tuple[int, int] = (560, 384), left_out: float = 0.0, other_fabrics: float = 0.0
) -> Scene:
    """Draw the scene of a seed; the same arguments give the same bytes on one platform.

    Args:
        seed: Seed of everything in the scene.
        size_hw: The photo's (h, w) in pixels.
        left_out: Chance, in [0, 1], of each object that belongs to a group (a garment, a wheel) to be left out, so that
            what it hides is seen. All else stays as it is (also shadows on the ground), and objects keep their numbers.
        other_fabrics: Chance, in [0, 1], of each thing worn to be of one other fabric; it lies where it lay.
    """
    rng, absence, weaving = (np.random.default_rng([seed, *stream]) for stream in ((), (1,), (2,)))
    canvas = Canvas(
        size_hw,
        _random_light(rng),
        leave_out=lambda: happens(absence, left_out),
        other_fabric=lambda: random_fabric(weaving) if happens(weaving, other_fabrics) else None,
    )
    place = pick(rng, PLACE_WEIGHTS)
    two = happens(rng, 0.15)
    feet, person_px = _stand(rng, size_hw, two=two)
    view = random_view(rng, place, person_px, float(feet[0][1]))
    paint_background(canvas, rng, place, view)
    if happens(rng, 0.75):
        _passers_by(canvas, rng, view)
    if canvas.light.shadow > STRONG_SUN and happens(rng, 0.5):
        _shade(canvas, rng)
    canvas.defocus(float(rng.gamma(1.6, 0.9)) * size_hw[0] / 560)
    if happens(rng, 0.13):
        _cut_off_person(canvas, rng, view)
    labels: dict[int, str] = {}
    for spot in feet:
        labels |= _main_person(canvas, rng, spot, person_px)
    if place != "room" and happens(rng, 0.06):
        _pole_in_front(canvas, rng, view)
    return _developed(canvas, rng, place, len(feet), labels)


def _random_light(rng: np.random.Generator) -> Light:
    """Return sun from above one side, or an overcast sky."""
    angle = float(rng.uniform(0.25, 1.1)) * float(rng.choice([-1, 1]))
    sun = float(rng.beta(1.5, 1.5))
    return Light(np.array([np.sin(angle), -np.cos(angle)]), relief=0.16 + 0.3 * sun, shadow=0.35 + 0.35 * sun)


def _stand(rng: np.random.Generator, size_hw: tuple[int, int], *, two: bool) -> tuple[list[Point], float]:
    """Return where the main people's soles are, and their height, pixels; some are cut off below."""
    height, width = size_hw
    share = float(rng.uniform(0.60, 0.92)) if happens(rng, 0.86) else float(rng.uniform(0.95, 1.25))
    person_px = share * height * (0.92 if two else 1.0)
    top = float(rng.uniform(0.03, max(0.97 - share, 0.05))) * height
    feet_y = top + person_px
    if not two:
        return [np.array([(0.5 + np.clip(rng.normal(0, 0.1), -0.25, 0.25)) * width, feet_y])], person_px
    apart = person_px * float(rng.uniform(0.32, 0.42))
    middle = (0.5 + float(rng.normal(0, 0.04))) * width
    return [np.array([middle + sign * apart / 2, feet_y + rng.normal(0, 0.01) * height]) for sign in (-1, 1)], person_px


def _passers_by(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint unlabelled people in the distance, the farthest first."""
    height, width = canvas.size_hw
    nearest = view.far_y + 0.55 * (view.feet_y - view.far_y)
    farthest = view.far_y + 0.06 * (view.feet_y - view.far_y)
    rows = np.sort(farthest + (nearest - farthest) * rng.uniform(0, 1, int(rng.integers(1, 4))) ** 1.7)
    for y in rows:
        tall = view.meter_px(float(y)) * 1.7
        person = random_person(rng, np.array([rng.uniform(-0.05, 1.05) * width, y]), tall)
        _ground_shadow(canvas, person)
        paint_figure(canvas, person.figure, group_label="passer-by", parts=tall > SMALL_FIGURE * height)


def _cut_off_person(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint an unlabelled person who stands half outside the picture."""
    width = canvas.size_hw[1]
    x = width * (0.5 + float(rng.choice([-1, 1])) * float(rng.uniform(0.46, 0.54)))
    scale = float(rng.uniform(0.75, 1.05))
    feet = np.array([x, view.horizon_y + (view.feet_y - view.horizon_y) * scale])
    person = random_person(rng, feet, view.person_px * scale)
    _ground_shadow(canvas, person)
    paint_figure(canvas, person.figure, group_label="passer-by", parts=True)


def _pole_in_front(canvas: Canvas, rng: np.random.Generator, view: View) -> None:
    """Paint a post between the camera and the people."""
    y = view.feet_y + float(rng.uniform(0.02, 0.1)) * canvas.size_hw[0]
    ground = np.array([rng.uniform(0.1, 0.9) * canvas.size_hw[1], y])
    pole(canvas, rng, ground, view.meter_px(y), sign=False)


def _main_person(canvas: Canvas, rng: np.random.Generator, feet: Point, person_px: float) -> dict[int, str]:
    """Paint a labelled person; return label by object number."""
    person = random_person(rng, feet, person_px)
    _ground_shadow(canvas, person)
    return paint_figure(canvas, person.figure, group_label="person", parts=True)


def _shade(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lay the shadow of something outside the picture on the place: of a house's edge, or of leaves."""
    height, width = canvas.size_hw
    if happens(rng, 0.5):
        x, lean = float(rng.uniform(0.1, 0.9)) * width, float(rng.normal(0, 0.5)) * width
        edge = -9.0 if happens(rng, 0.5) else width + 9.0
        house = points((x, -9), (x + lean, height + 9), (edge, height + 9), (edge, -9))
        canvas.darken([house], canvas.light.shadow * 0.7, 0.006 * height)
        return
    middle = rng.uniform((0, 0.3), (1, 1)) * (width, height)
    spots = middle + rng.normal(0, 1, (40, 2)) * (0.25 * width, 0.10 * height)
    leaves = [ellipse(spot, *(rng.uniform(0.02, 0.08, 2) * width)) for spot in spots]
    canvas.darken(leaves, canvas.light.shadow * 0.6, 0.012 * height)


def _ground_shadow(canvas: Canvas, person: Dressed) -> None:
    """Lay the person's shadow on the ground: soft under the feet, and in the sun the whole figure, leaning away."""
    body = person.body
    feet = (body.legs[0].toes + body.legs[1].toes) / 2
    canvas.darken([ellipse(feet, body.px(0.13), body.px(0.018))], 0.5, body.px(0.012))
    light = canvas.light
    if light.shadow > STRONG_SUN:
        lean = -light.toward_xy[0] / max(-light.toward_xy[1], 0.3) * 0.6
        fallen = [_laid_down(outline, feet, lean) for outline in silhouette(person.figure)]
        canvas.darken(fallen, light.shadow * 0.55, body.px(0.010))


def _laid_down(outline: Outline, feet: Point, lean: float) -> Outline:
    """Return an outline's shadow on the ground behind the feet."""
    above = feet[1] - outline[:, 1]
    return np.column_stack([outline[:, 0] + lean * above, feet[1] - 0.14 * above])


def _developed(canvas: Canvas, rng: np.random.Generator, place: str, people: int, labels: dict[int, str]) -> Scene:
    """Reduce the canvas, take the photo, and name every pixel's class."""
    picture, object_map = canvas.reduced()
    jpeg = develop(picture, random_camera(rng, canvas.size_hw[0]), rng)
    classes = np.zeros(len(canvas.labels), dtype=np.uint8)
    for number, label in labels.items():
        classes[number] = CLASS_INDICES[label]
    return Scene(
        jpeg=jpeg,
        image_hw3=np.asarray(Image.open(io.BytesIO(jpeg))),
        index_hw=classes[object_map],
        place=place,
        people=people,
        object_map_hw=object_map,
        object_labels=tuple(canvas.labels),
        object_groups=tuple(canvas.groups),
        group_labels=tuple(canvas.group_labels),
    )
