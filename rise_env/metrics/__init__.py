"""Metrics that compare imagination with the truth. Those that need networks are in `rise_env.metrics.perceptual`."""

from rise_env.metrics.agreement import area_under_roc, outcome_recognition, rank_correlation, within_group_correlation
from rise_env.metrics.images import endpoint_error, foreground_mask, psnr, ssim

__all__ = [
    "area_under_roc",
    "endpoint_error",
    "foreground_mask",
    "outcome_recognition",
    "psnr",
    "rank_correlation",
    "ssim",
    "within_group_correlation",
]
