"""People and their clothes: a body, dressed from the skin outwards."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from persam_ray.demo import accessories, coats, garments, heads
from persam_ray.demo.bodies import Body, pose
from persam_ray.demo.chance import happens, pick
from persam_ray.demo.fabrics import Fabric, hair_fabric, plain, woven
from persam_ray.demo.garments import Cut
from persam_ray.demo.hair import HAIRCUTS_FEMININE, HAIRCUTS_MASCULINE, add_hair
from persam_ray.demo.palettes import (  # fmt: skip
    ACCENTS,
    BLUES,
    BRIGHTS,
    DARK_HAIRS,
    DARKS,
    DENIMS,
    HAIRS,
    LEATHERS,
    NEUTRALS,
    SKINS,
    Colour,
    brightness,
    contrasting,
    varied,
)
from persam_ray.demo.pieces import Figure, Layer, Tailor
from persam_ray.demo.shapes import Point, ellipse, tube

Base = Literal["top and pants", "top and skirt", "dress", "romper"]

BASES_FEMININE: dict[Base, float] = {"top and pants": 33, "top and skirt": 30, "dress": 34, "romper": 3}
BASES_MASCULINE: dict[Base, float] = {"top and pants": 98, "romper": 2}
TOP_PATTERNS = {
    "plain": 36.0, "heather": 10.0, "knit": 12.0, "stripes": 16.0, "checks": 8.0, "dots": 5.0, "floral": 6.0,
    "print": 7.0,
}  # fmt: skip
DRESS_PATTERNS = {"plain": 36.0, "floral": 24.0, "print": 14.0, "dots": 10.0, "stripes": 10.0, "checks": 6.0}
BOTTOM_PATTERNS = {"plain": 66.0, "heather": 14.0, "pinstripes": 7.0, "checks": 6.0, "print": 4.0, "floral": 3.0}
OUTER_PATTERNS = {"plain": 60.0, "heather": 18.0, "knit": 8.0, "checks": 9.0, "pinstripes": 2.0, "print": 3.0}
BAGS = {"none": 30.0, "crossbody": 22.0, "shoulder": 16.0, "hand": 12.0, "elbow": 9.0, "clutch": 7.0, "backpack": 4.0}


@dataclass(frozen=True)
class Dressed:
    """A person ready to be painted."""

    body: Body
    figure: Figure


def random_fabric(rng: np.random.Generator) -> Fabric:
    """Return a cloth that any garment could be made of."""
    return woven(rng, TOP_PATTERNS, varied(rng, NEUTRALS + BLUES + ACCENTS + BRIGHTS + DARKS + DENIMS))


def random_person(rng: np.random.Generator, feet: Point, height_px: float) -> Dressed:
    """Return a person in street clothes with the soles at `feet`."""
    body = pose(rng, feet, height_px * float(rng.uniform(0.96, 1.03)), feminine=happens(rng, 0.7))
    tailor = Tailor(body)
    skin = heads.skin_fabric(varied(rng, SKINS, 5))
    heads.add_skin(tailor, skin)
    ground = _dress(tailor, rng)
    _accessorize(tailor, rng, ground)
    hat = pick(rng, {"none": 90, "beanie": 4, "cap": 3, "brim": 3})
    glasses = pick(rng, {"none": 66, "sun": 24, "clear": 10})
    hair = hair_fabric(rng, varied(rng, HAIRS if brightness(skin.mean()) > 140 else DARK_HAIRS, 5))
    heads.add_face(tailor, skin, rng, hair=hair.mean(), eyes=glasses != "sun")
    cuts = HAIRCUTS_FEMININE if body.feminine else HAIRCUTS_MASCULINE
    add_hair(tailor, hair, rng, pick(rng, cuts), hat=hat != "none")
    if glasses != "none":
        accessories.add_glasses(tailor, sun=glasses == "sun")
    if hat != "none":
        accessories.add_hat(tailor, woven(rng, {"plain": 3, "knit": 2}, varied(rng, DARKS + ACCENTS)), hat)
    return Dressed(body, tailor.figure)


def _dress(tailor: Tailor, rng: np.random.Generator) -> Colour:
    """Add the clothes; return the colour of the main piece, from which the others differ."""
    base = pick(rng, BASES_FEMININE if tailor.body.feminine else BASES_MASCULINE)
    if base == "dress":
        ground = _add_dress(tailor, rng)
    elif base == "romper":
        ground = _add_romper(tailor, rng)
    else:
        ground = _add_separates(tailor, rng, skirt=base == "top and skirt")
    if happens(rng, 0.40 if base == "dress" else 0.56):
        _add_coat(tailor, rng, ground)
    return ground


def _sleeve(rng: np.random.Generator) -> float:
    return pick(rng, {0.0: 12, 0.18: 8, 0.36: 30, 0.52: 8, 0.74: 10, 0.99: 32})


def _add_dress(tailor: Tailor, rng: np.random.Generator) -> Colour:
    ground = varied(rng, ACCENTS + BRIGHTS + NEUTRALS + BLUES)
    flared = happens(rng, 0.65)
    cut = Cut(
        neckline=pick(rng, {"crew": 3, "v": 4, "scoop": 4, "boat": 2, "high": 1}),
        sleeve=_sleeve(rng),
        hem=pick(rng, {0.60: 3, 0.66: 4, 0.71: 3, 0.80: 2, 0.89: 2}),
        ease=float(rng.uniform(0.004, 0.012)),
        flare=float(rng.uniform(0.03, 0.09)) if flared else 0.0,
    )
    garments.add_dress(tailor, woven(rng, DRESS_PATTERNS, ground), cut, waves=int(rng.integers(4, 9)) if flared else 0)
    _add_legwear(tailor, rng, bare=0.58)
    return ground


def _add_romper(tailor: Tailor, rng: np.random.Generator) -> Colour:
    ground = varied(rng, NEUTRALS + BLUES + ACCENTS)
    fabric = woven(rng, {"plain": 6, "floral": 2, "pinstripes": 1}, ground)
    cut = Cut(pick(rng, {"shirt": 2, "v": 2, "crew": 1}), _sleeve(rng), hem=0.44, ease=0.008)
    garments.add_pants(tailor, fabric, pick(rng, {0.62: 1, 0.945: 2}), 0.014, denim=False, label="rompers")
    garments.add_top(tailor, fabric, cut, tucked=False, label="rompers")
    _add_shoes(tailor, rng, {"sneaker": 2, "flat": 1, "loafer": 1})
    return ground


def _add_separates(tailor: Tailor, rng: np.random.Generator, *, skirt: bool) -> Colour:
    """Add a top with trousers or a skirt, of colours that differ."""
    ground = varied(rng, BRIGHTS + ACCENTS + NEUTRALS + BLUES)
    tucked = happens(rng, 0.75 if skirt else 0.38)
    cut = Cut(
        neckline=pick(rng, {"crew": 5, "v": 3, "scoop": 2, "boat": 1, "high": 2, "shirt": 4}),
        sleeve=_sleeve(rng),
        hem=0.43 if tucked else float(rng.uniform(0.43, 0.53)),
        ease=float(rng.uniform(0.003, 0.018)),
    )
    garments.add_top(tailor, woven(rng, TOP_PATTERNS, ground), cut, tucked=tucked)
    if happens(rng, 0.14) and cut.neckline != "shirt":
        _add_print(tailor, rng, ground, tucked=tucked)
    if skirt:
        _add_skirt(tailor, rng, ground)
    else:
        _add_pants(tailor, rng, ground)
    if tucked and happens(rng, 0.45):
        accessories.add_belt(tailor, _leather(rng))
    return ground


def _add_print(tailor: Tailor, rng: np.random.Generator, ground: Colour, *, tucked: bool) -> None:
    """Add a motif on the chest: a disc, a bar or lines of letters."""
    body = tailor.body
    layer = Layer.TUCKED_TOP if tucked else Layer.LOOSE_TOP
    center = body.center(0.285)
    colour = plain(contrasting(rng, ground, BRIGHTS + ACCENTS + DARKS), folds=0.0)
    kind = pick(rng, {"disc": 1, "bar": 1, "letters": 2})
    if kind == "disc":
        tailor.detail(layer, "top", [ellipse(center, body.px(0.034), body.px(0.034))], colour)
    elif kind == "bar":
        corners = ((-0.05, -0.012), (0.05, -0.012), (0.05, 0.016), (-0.05, 0.016))
        tailor.detail(layer, "top", [center + body.px(1.0) * np.array(corners)], colour)
    else:
        for k in range(5):
            start = center + body.px(1.0) * np.array([-0.044 + 0.020 * k, 0.0])
            stroke = start + body.px(1.0) * rng.uniform((-0.006, -0.014), (0.006, 0.014), (4, 2))
            tailor.detail(layer, "top", tube(stroke, [body.px(0.0028)] * 4), colour)


def _add_skirt(tailor: Tailor, rng: np.random.Generator, other: Colour) -> None:
    fabric = woven(
        rng, {**BOTTOM_PATTERNS, "floral": 12.0, "dots": 6.0}, contrasting(rng, other, NEUTRALS + DARKS + ACCENTS, 40)
    )
    flared = happens(rng, 0.6)
    cut = Cut(
        "crew",
        0.0,
        hem=pick(rng, {0.60: 4, 0.66: 4, 0.72: 3, 0.84: 2}),
        ease=0.006,
        flare=float(rng.uniform(0.03, 0.09)) * flared,
    )
    garments.add_skirt(tailor, fabric, cut, waves=int(rng.integers(5, 10)) * flared)
    _add_legwear(tailor, rng, bare=0.5)


def _add_pants(tailor: Tailor, rng: np.random.Generator, other: Colour) -> None:
    denim = happens(rng, 0.42)
    ground = contrasting(rng, other, DENIMS if denim else NEUTRALS + DARKS, 35)
    fabric = plain(ground, folds=0.2, grain=0.04) if denim else woven(rng, BOTTOM_PATTERNS, ground)
    width, hem = pick(
        rng, {(0.003, 0.955): 40, (0.009, 0.955): 25, (0.026, 0.96): 10, (0.006, 0.91): 15, (0.012, 0.66): 10}
    )
    garments.add_pants(tailor, fabric, hem, width, denim=denim)
    boots = 2.0 if width < 0.008 else 0.0
    kinds = {"sneaker": 3.0, "loafer": 2.0, "boot": boots}
    feminine = {"heel": 2.0, "flat": 1.0} if tailor.body.feminine else {}
    _add_shoes(tailor, rng, {**kinds, **feminine}, over_trousers=True)


def _add_legwear(tailor: Tailor, rng: np.random.Generator, *, bare: float) -> None:
    """Add tights or socks, or leave the legs bare, and shoes."""
    kind = pick(rng, {"bare": bare, "tights": 0.9 - bare, "socks": 0.1})
    if kind == "tights":
        garments.add_hose(tailor, plain(varied(rng, DARKS), folds=0.02), "leggings", top=0.51)
    elif kind == "socks":
        garments.add_hose(
            tailor, plain(varied(rng, BRIGHTS + DARKS), folds=0.05), "socks", top=float(rng.uniform(0.76, 0.91))
        )
    _add_shoes(tailor, rng, {"heel": 3, "boot": 3, "flat": 2, "sneaker": 2, "loafer": 1})


def _add_shoes(
    tailor: Tailor, rng: np.random.Generator, weights: dict[str, float], *, over_trousers: bool = False
) -> None:
    kind, shaft = pick(rng, weights), float(rng.uniform(0.77, 0.925))
    accessories.add_shoes(tailor, _leather(rng), kind, shaft=shaft, over_trousers=over_trousers)


def _add_coat(tailor: Tailor, rng: np.random.Generator, other: Colour) -> None:
    """Add a jacket or coat, usually open, of another colour than what is below."""
    fabric = woven(rng, OUTER_PATTERNS, contrasting(rng, other, NEUTRALS + DARKS + DENIMS + ACCENTS, 45))
    if happens(rng, 0.15):
        fabric = plain(contrasting(rng, other, LEATHERS, 35), folds=0.16, gloss=0.5)
    cut = Cut(
        neckline="v",
        sleeve=0.99 if happens(rng, 0.88) else 0.0,
        hem=pick(rng, {0.44: 3, 0.50: 4, 0.58: 2, 0.66: 3, 0.78: 1}),
        ease=float(rng.uniform(0.014, 0.028)),
    )
    gap = float(rng.uniform(0.02, 0.08)) if happens(rng, 0.84) else 0.0
    coats.add_coat(tailor, fabric, cut, gap=gap, collar=pick(rng, {"lapels": 5, "round": 3, "hood": 2, "fur": 1}))


def _accessorize(tailor: Tailor, rng: np.random.Generator, ground: Colour) -> None:
    """Add bag, scarf and necklace."""
    bag = pick(rng, BAGS)
    if bag != "none" and not accessories.can_carry(tailor.body, bag):
        bag = "crossbody"
    if bag != "none":
        leather = plain(contrasting(rng, ground, LEATHERS, 40), folds=0.05, gloss=0.3)
        accessories.add_bag(tailor, leather, rng, bag)
    if happens(rng, 0.1):
        fabric = woven(
            rng, {"knit": 3, "plain": 2, "checks": 3, "floral": 1}, contrasting(rng, ground, ACCENTS + NEUTRALS, 40)
        )
        accessories.add_scarf(tailor, fabric, rng)
    elif tailor.body.feminine and happens(rng, 0.15):
        accessories.add_necklace(tailor, rng)


def _leather(rng: np.random.Generator) -> Fabric:
    """Return a material for shoes and belts."""
    return plain(varied(rng, (*LEATHERS, "1b1a1a", "1b1a1a", "e9e6df")), folds=0.0, gloss=0.4)
