"""Image metrics over any leading axes. Images are uint8 (..., H, W, 3)."""

from __future__ import annotations

import numpy as np

__all__ = ["check_images", "endpoint_error", "foreground_mask", "psnr", "ssim"]


def psnr(imagined: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio, dB.

    Args:
        imagined: uint8 (..., H, W, 3).
        true: uint8 of the same shape.
        mask: bool (..., H, W); only these pixels count. An image without any gives NaN.

    Returns:
        float (...,); identical images are capped at 100 dB.
    """
    check_images(imagined, true)
    error = (imagined.astype(np.float32) - true.astype(np.float32)) ** 2
    if mask is None:
        mean = error.mean((-3, -2, -1))
    else:
        weight = mask.sum((-2, -1))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(weight > 0, (error.mean(-1) * mask).sum((-2, -1)) / weight, np.nan)
    return np.minimum(10 * np.log10(255.0**2 / np.maximum(mean, 1e-12)), 100.0)


def ssim(imagined: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Structural similarity with an 11 x 11 Gaussian window, sigma 1.5 (Wang et al. 2004), mean over colour channels.

    Args:
        imagined: uint8 (..., H, W, 3), at least 11 x 11 pixels.
        true: uint8 of the same shape.

    Returns:
        float (...,), at most 1.
    """
    import torch
    from torch.nn.functional import conv2d

    check_images(imagined, true)
    lead, (height, width, _) = imagined.shape[:-3], imagined.shape[-3:]
    if min(height, width) < 11:
        raise ValueError(f"SSIM needs images of at least 11 x 11 pixels, got {height} x {width}")
    offset = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offset**2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum())[None, None]

    def channels(images: np.ndarray) -> torch.Tensor:
        flat = torch.from_numpy(np.ascontiguousarray(images)).reshape(-1, height, width, 3)
        return flat.permute(0, 3, 1, 2).reshape(-1, 1, height, width).double()

    a, b = channels(imagined), channels(true)
    mean_a, mean_b = conv2d(a, window), conv2d(b, window)
    var_a = conv2d(a * a, window) - mean_a**2
    var_b = conv2d(b * b, window) - mean_b**2
    covariance = conv2d(a * b, window) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    quotient = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return quotient.reshape(-1, 3 * quotient.shape[-2] * quotient.shape[-1]).mean(1).numpy().reshape(lead)


def foreground_mask(true: np.ndarray, start: np.ndarray, threshold: int = 24, grow: int = 1) -> np.ndarray:
    """Pixels that changed since the start of the chunk: what there was to imagine.

    Args:
        true: uint8 (..., H, W, 3).
        start: uint8, broadcastable to `true`: the frame the chunk started from.
        threshold: Least change of a colour channel.
        grow: Pixels by which the mask is dilated.

    Returns:
        bool (..., H, W).
    """
    changed = (np.abs(true.astype(np.int16) - start.astype(np.int16)) > threshold).any(-1)
    for _ in range(grow):
        padded = np.pad(changed, [(0, 0)] * (changed.ndim - 2) + [(1, 1), (1, 1)])
        height, width = changed.shape[-2:]
        shifts = [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
        changed = np.logical_or.reduce(shifts)
    return changed


def endpoint_error(imagined: np.ndarray, true: np.ndarray, start: np.ndarray) -> np.ndarray:
    """End-point error of optical flow from the start frame: does what moves, move where it should?

    Flow from `start` to the imagined frame is compared with flow from `start` to the true one (dense flow of Farneback,
    2003, on grey images; mean distance of the flow vectors over the pixels that truly changed).

    Args:
        imagined: uint8 (N, H, W, 3).
        true: uint8 (N, H, W, 3).
        start: uint8 (N, H, W, 3).

    Returns:
        float (N,) pixels; NaN where nothing changed.
    """
    import cv2

    check_images(imagined, true)
    result = np.full(len(true), np.nan)
    masks = foreground_mask(true, start)
    for index, (guess, truth, first, mask) in enumerate(zip(imagined, true, start, masks, strict=True)):
        if not mask.any():
            continue
        grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (first, guess, truth)]
        flows = [
            cv2.calcOpticalFlowFarneback(grey[0], target, None, 0.5, 3, 9, 3, 5, 1.1, 0)  # type: ignore[call-overload]
            for target in grey[1:]
        ]
        result[index] = np.linalg.norm(flows[0] - flows[1], axis=-1)[mask].mean()
    return result


def check_images(imagined: np.ndarray, true: np.ndarray) -> None:
    """Raise unless both are uint8 (..., H, W, 3) of one shape: ValueError for shapes, TypeError for types."""
    if imagined.shape != true.shape or imagined.shape[-1] != 3:
        raise ValueError(f"images have shapes {imagined.shape} and {true.shape}, expected two equal (..., H, W, 3)")
    if imagined.dtype != np.uint8 or true.dtype != np.uint8:
        raise TypeError(f"images have types {imagined.dtype} and {true.dtype}, expected uint8")
