"""Image metrics against hand-computed numbers and their defining properties."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.metrics import endpoint_error, foreground_mask, psnr, ssim


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)


def test_psnr_of_a_known_error() -> None:
    true = np.full((1, 8, 8, 3), 100, np.uint8)
    assert psnr(true + 10, true) == pytest.approx(10 * np.log10(255**2 / 100))


def test_psnr_of_equal_images_is_capped(image: np.ndarray) -> None:
    assert (psnr(image, image) == 100.0).all()


def test_masked_psnr_counts_masked_pixels_only() -> None:
    true = np.zeros((8, 8, 3), np.uint8)
    wrong = true.copy()
    wrong[0, 0] = 255
    mask = np.zeros((8, 8), bool)
    mask[4:] = True
    assert psnr(wrong, true, mask) == 100.0
    mask[0, 0] = True
    assert psnr(wrong, true, mask) == pytest.approx(10 * np.log10(33))
    assert np.isnan(psnr(wrong, true, np.zeros((8, 8), bool)))


def test_ssim_orders_damage(image: np.ndarray) -> None:
    noise = np.random.default_rng(1).integers(-20, 21, image.shape)
    slightly = np.clip(image + noise, 0, 255).astype(np.uint8)
    badly = np.clip(image + 5 * noise, 0, 255).astype(np.uint8)
    assert ssim(image, image) == pytest.approx(1.0)
    assert (ssim(slightly, image) < 1.0).all()
    assert (ssim(badly, image) < ssim(slightly, image)).all()


def test_ssim_of_constant_images_by_hand() -> None:
    a, b = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_foreground_is_where_the_scene_changed() -> None:
    start = np.zeros((10, 10, 3), np.uint8)
    true = start.copy()
    true[5, 5] = 200
    assert foreground_mask(true, start, grow=0).sum() == 1
    assert foreground_mask(true, start, grow=1).sum() == 9


def test_endpoint_error_is_small_where_the_motion_is_right_and_nan_without_motion() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (12, 12, 3), np.uint8)

    def scene(x: int) -> np.ndarray:
        canvas = np.full((48, 64, 3), 60, np.uint8)
        canvas[18:30, x : x + 12] = texture
        return canvas[None]

    start, true = scene(20), scene(24)
    assert endpoint_error(true, true, start)[0] == 0.0
    assert endpoint_error(start, true, start)[0] > 1.0
    assert np.isnan(endpoint_error(start, start, start)[0])


@pytest.mark.parametrize("other", [np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_wrong_images_are_refused(other: np.ndarray) -> None:
    with pytest.raises((ValueError, TypeError), match="images have"):
        psnr(other, np.zeros((4, 4, 3), np.uint8))
