"""Imagination compared with the truth: image quality, action sensitivity, advantage ranking, value and uncertainty.

The ground truth comes from the work cell (`truth_set.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.truth_ladder import bounded
from benchmarks.truth_set import TruthSet
from rise_env.envs.advantage import chunk_advantage
from rise_env.metrics import (
    area_under_roc,
    endpoint_error,
    foreground_mask,
    outcome_recognition,
    psnr,
    rank_correlation,
    ssim,
    within_group_correlation,
)
from rise_env.metrics.agreement import Mean, mean_over_groups
from rise_env.metrics.perceptual import FVD_NOT_RUN, LPIPS_NOT_RUN, Lpips, VideoFeatures, frechet_distance
from rise_env.protocols import History
from rise_env.world_model import CompositionalWorldModel

__all__ = ["WRONG", "Imagined", "advantages", "imagine", "measure", "within_state"]

#: Error of the imagined advantage from which a chunk counts as "imagined wrongly".
WRONG = 0.1
_LEAST_SPREAD = 0.02  # of the true advantage inside a state, for its order to mean anything


class Imagined(NamedTuple):
    """What the world model made of a truth set.

    Attributes:
        frames: uint8 (S, C, K, V, H, W, 3).
        values: Of imagined frames, float (S, C, K).
        true_values: Of the true ones, float (S, C, K).
        start_values: float (S,).
        uncertainty: float (S, C).
    """

    frames: np.ndarray
    values: np.ndarray
    true_values: np.ndarray
    start_values: np.ndarray
    uncertainty: np.ndarray


@torch.no_grad()
def imagine(
    model: CompositionalWorldModel,
    truth: TruthSet,
    prompt: str,
    seed: int = 0,
    on_state: Callable[[], object] = lambda: None,
) -> Imagined:
    """Imagine every chunk, a state at a time.

    True frames are scored by the value model, imagined ones by the reward source.
    """
    dynamics, value = model.dynamics, model.value
    device, (states, chunks, horizon) = dynamics.device, truth.frames.shape[:3]
    frames, values, true_values, starts, doubts = [], [], [], [], []
    for s in range(states):
        history = History(
            torch.from_numpy(np.repeat(truth.history_frames[s][None], chunks, 0)).to(device),
            torch.from_numpy(np.repeat(truth.history_states[s][None], chunks, 0)).to(device),
            [prompt] * chunks,
        )
        generators = [torch.Generator().manual_seed(seed + s * chunks + c) for c in range(chunks)]
        session = dynamics.open(history)
        prediction, _ = dynamics.predict(session, torch.from_numpy(truth.actions[s]).to(device), generators)
        pixels = dynamics.decode(prediction, range(horizon))
        true = torch.from_numpy(np.ascontiguousarray(truth.frames[s])).to(device)
        start = history.frames[:1, -1:]
        if value.reads_latents:
            true, start = dynamics.encode(true), dynamics.encode(start)
        scored = model.value_of_prediction(prediction, [prompt] * chunks)
        estimates = [scored, *(value.estimate(x, [prompt] * len(x)) for x in (true, start))]
        frames.append(pixels.cpu().numpy())
        values.append(estimates[0].value.float().cpu().numpy())
        true_values.append(estimates[1].value.float().cpu().numpy())
        starts.append(float(estimates[2].value[0, 0]))
        spread = estimates[0].spread.float().mean(1)
        doubts.append((spread if prediction.uncertainty is None else spread + prediction.uncertainty).cpu().numpy())
        dynamics.close(session)
        on_state()
    return Imagined(*(np.stack(x) for x in (frames, values, true_values)), np.array(starts), np.stack(doubts))


def measure(
    truth: TruthSet,
    imagined: Imagined,
    cameras: list[str],
    lpips: Lpips | None = None,
    video: VideoFeatures | None = None,
    on_state: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """All metrics as plain values.

    Without a network for LPIPS, or for FVD, these are None, and `not_run` says why. `on_state` is called after every
    state whose clips `video` has read.
    """
    start = truth.history_frames[:, -1]
    states, chunks = truth.actions.shape[:2]
    ends = (
        imagined.frames[:, :, -1],
        truth.frames[:, :, -1],
        np.broadcast_to(start[:, None], truth.frames[:, :, -1].shape),
    )
    flat = [x.reshape(-1, *x.shape[-3:]) for x in ends]
    epe = endpoint_error(*flat).reshape(states, chunks, len(cameras))
    epe_copy = endpoint_error(flat[2], flat[1], flat[2]).reshape(epe.shape)
    # A state at a time: all of them at once would take gigabytes.
    pairs = list(zip(imagined.frames, truth.frames, start, strict=True))
    quality = np.stack([psnr(guess, true) for guess, true, _ in pairs])
    quality_copy = np.stack([psnr(np.broadcast_to(first, true.shape), true) for _, true, first in pairs])
    mask = np.stack([foreground_mask(true[:, -1], first) for _, true, first in pairs])
    advantage = advantages(imagined.values, imagined.start_values)
    true_advantage = advantages(imagined.true_values, imagined.start_values)
    progress = advantages(truth.progress, truth.start_progress)
    group = np.repeat(np.arange(states), chunks)
    gained = truth.progress[:, :, -1] - truth.start_progress[:, None] > 0.05
    wrong = np.abs(advantage - true_advantage) > WRONG
    return {
        "states": states,
        "chunks_per_state": chunks,
        "psnr": {
            "chunk_end": float(quality[:, :, -1].mean()),
            "chunk_end_copy": float(quality_copy[:, :, -1].mean()),
            "foreground_end": float(np.nanmean(psnr(ends[0], ends[1], mask))),
            "foreground_end_copy": float(np.nanmean(psnr(ends[2], ends[1], mask))),
            "by_horizon": quality.mean((0, 1, 3)).tolist(),
            "by_view_end": dict(zip(cameras, quality[:, :, -1].mean((0, 1)).tolist(), strict=True)),
        },
        "ssim": {
            "chunk_end": float(ssim(ends[0], ends[1]).mean()),
            "chunk_end_copy": float(ssim(ends[2], ends[1]).mean()),
        },
        "epe": {
            "chunk_end": float(np.nanmean(epe)),
            "chunk_end_copy": float(np.nanmean(epe_copy)),
            "by_view": {c: float(np.nanmean(epe[..., v])) for v, c in enumerate(cameras)},
        },
        "action_sensitivity": {"recognised": outcome_recognition(ends[0], ends[1], start), "chance": 1 / chunks},
        "spearman": {
            **_ranking(advantage, true_advantage, truth.kinds, group),
            "against_ground_truth_progress": _ranking(advantage, progress, truth.kinds, group),
            "value_on_true_frames_against_progress": _ranking(true_advantage, progress, truth.kinds, group),
        },
        "value_correlation": rank_correlation(imagined.true_values, truth.progress),
        "value_bias_on_imagined_frames": float((imagined.values - imagined.true_values).mean()),
        "gain_auc": {
            "true_frames": area_under_roc(true_advantage.ravel(), gained.ravel()),
            "imagined_frames": area_under_roc(advantage.ravel(), gained.ravel()),
        },
        "uncertainty_auroc": area_under_roc(imagined.uncertainty.ravel(), wrong.ravel()),
        "imagined_wrongly": float(wrong.mean()),
        "lpips": None if lpips is None else _lpips(lpips, ends, cameras),
        "fvd": None if video is None else _fvd(video, truth, imagined, cameras, on_state),
        "not_run": {**({} if lpips else {"lpips": LPIPS_NOT_RUN}), **({} if video else {"fvd": FVD_NOT_RUN})},
    }


def _lpips(lpips: Lpips, ends: Sequence[np.ndarray], cameras: list[str]) -> dict[str, Any]:
    """LPIPS at the end of the chunk, of imagined, true and start frames (S, C, V, H, W, 3)."""
    found = lpips.distance(ends[0], ends[1])
    return {
        "network": lpips.net,
        "chunk_end": float(found.mean()),
        "chunk_end_copy": float(lpips.distance(ends[2], ends[1]).mean()),
        "by_view": dict(zip(cameras, found.mean((0, 1)).tolist(), strict=True)),
    }


def _fvd(
    video: VideoFeatures, truth: TruthSet, imagined: Imagined, cameras: list[str], on_state: Callable[[], object]
) -> dict[str, Any]:
    """FVD of clips of one camera each: the start frame and the chunk. A copy repeats the start frame.

    The start frame belongs to the clip because motion from it is what is imagined, and because the I3D needs 9 frames,
    one more than a chunk of 8.
    """
    kinds: tuple[list[np.ndarray], ...] = ([], [], [])
    for guess, true, first in zip(imagined.frames, truth.frames, truth.history_frames[:, -1], strict=True):
        for found, chunk in zip(kinds, (guess, true, np.broadcast_to(first, true.shape)), strict=True):
            start = np.broadcast_to(first, (len(chunk), 1, *first.shape))
            clips = np.concatenate([start, chunk], axis=1)  # (C, 1 + K, V, H, W, 3)
            features = video.features(np.moveaxis(clips, 2, 1).reshape(-1, clips.shape[1], *clips.shape[3:]))
            found.append(features.reshape(len(chunk), len(cameras), -1))
        on_state()
    ours, true, copies = (np.concatenate(found) for found in kinds)  # (S C, V, F)
    flat = [features.reshape(-1, features.shape[-1]) for features in (ours, true, copies)]
    return {
        "clips": len(flat[0]),
        "frames_per_clip": 1 + truth.frames.shape[2],
        "chunk": frechet_distance(flat[0], flat[1]),
        "chunk_copy": frechet_distance(flat[2], flat[1]),
        "by_view": {camera: frechet_distance(ours[:, v], true[:, v]) for v, camera in enumerate(cameras)},
    }


def within_state(imagined: np.ndarray, true: np.ndarray, group: np.ndarray) -> tuple[Mean | None, int]:
    """Mean rank correlation inside a state, over the states whose chunks truly differ; and how many these are."""
    found = [
        within_group_correlation(imagined[rows], true[rows], group[rows], _LEAST_SPREAD)
        for rows in (np.flatnonzero(group == name) for name in np.unique(group))
    ]
    known = np.array([value for value, counted in found if counted])
    if not len(known):
        return None, 0
    return bounded(mean_over_groups(known, np.arange(len(known)))), len(known)


def advantages(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Chunk advantages (S, C) of values (S, C, K) and start values (S,)."""
    flat = torch.from_numpy(values.reshape(-1, values.shape[-1]).astype(np.float64))
    first = torch.from_numpy(np.repeat(start.astype(np.float64), values.shape[1]))
    return chunk_advantage(flat, first, "mean").numpy().reshape(values.shape[:2])


def _ranking(imagined: np.ndarray, true: np.ndarray, kinds: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    within, counted = within_group_correlation(imagined.ravel(), true.ravel(), group, _LEAST_SPREAD)
    columns = {str(kind): kinds == kind for kind in kinds}
    by_kind = {kind: rank_correlation(imagined[:, which], true[:, which]) for kind, which in columns.items()}
    overall = rank_correlation(imagined, true)
    return {"overall": overall, "within_state": within, "states_with_an_order": counted, "by_kind": by_kind}
