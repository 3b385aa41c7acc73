"""The camera: exposure, white balance, lens blur, sensor noise, JPEG."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from persam_ray.demo.fabrics import FloatArray
from persam_ray.types import ByteArray


@dataclass(frozen=True)
class Camera:
    """How a picture is taken.

    Attributes:
        exposure: Factor of the light, 0.75 to 1.45.
        balance_3: Factors of red, green and blue.
        saturation: Factor of the colours' distance from grey.
        contrast: Slope of the tone curve around middle grey.
        vignette: Share of the light that is lost in the corners.
        blur_px: Deviation of the lens blur.
        noise: Deviation of the sensor's noise at middle grey, levels.
        quality: JPEG quality.
    """

    exposure: float
    balance_3: FloatArray
    saturation: float
    contrast: float
    vignette: float
    blur_px: float
    noise: float
    quality: int


def random_camera(rng: np.random.Generator, height: int) -> Camera:
    """Return a camera's settings for photos of this height."""
    warmth, tint = rng.normal(0, 0.035), rng.normal(0, 0.012)
    return Camera(
        exposure=float(np.clip(rng.normal(1.10, 0.12), 0.75, 1.45)),
        balance_3=np.array([1 + warmth, 1 + tint, 1 - warmth], dtype=np.float32),
        saturation=float(rng.uniform(0.55, 1.02)),
        contrast=float(rng.uniform(0.92, 1.2)),
        vignette=float(rng.uniform(0, 0.2)),
        blur_px=float(rng.uniform(0.2, 0.9)) * height / 560,
        noise=float(rng.gamma(2.0, 1.6)),
        quality=int(rng.integers(68, 96)),
    )


def develop(picture: ByteArray, camera: Camera, rng: np.random.Generator) -> bytes:
    """Return the JPEG that the camera makes of a clean picture (h, w, 3) RGB."""
    height, width = picture.shape[:2]
    light: FloatArray = np.asarray(picture, dtype=np.float32) / np.float32(255)
    if camera.blur_px > 0.25:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), camera.blur_px), dtype=np.float32)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    gain = np.float32(camera.exposure) * (1 - np.float32(camera.vignette / 2) * (x * x + y * y))
    light = light * gain[..., None] * camera.balance_3
    grey = light @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    light = grey[..., None] + (light - grey[..., None]) * np.float32(camera.saturation)
    light = _tone(light, camera.contrast)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    noise = 0.6 * noise + 0.8 * noise.mean(axis=2, keepdims=True)  # mostly brightness, some colour
    light += noise * (np.float32(camera.noise / 255) * np.sqrt(np.clip(light, 0.05, 1) + np.float32(0.1)))
    encoded = io.BytesIO()
    pixels = (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(pixels).save(encoded, "JPEG", quality=camera.quality)
    return encoded.getvalue()


def _tone(light: FloatArray, contrast: float) -> FloatArray:
    """Return the light after a curve that is steeper around middle grey and soft towards white."""
    curved = 0.5 + (light - 0.5) * np.float32(contrast)
    bright = np.float32(0.85)
    over = np.maximum(curved - bright, 0)
    return np.asarray(np.minimum(curved, bright) + over / (1 + over * np.float32(3)), dtype=np.float32)
