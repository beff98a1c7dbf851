"""Findings about cameras: pictures that stand, come too rarely or late, jump in brightness, or show nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rise_env.data.check.finding import Finding, listed
from rise_env.data.check.joints import spans
from rise_env.data.check.pictures import Camera
from rise_env.data.check.reading import Motion

__all__ = ["camera_findings", "picture_delay", "scene_findings", "stretches"]

#: Grey levels by which a block of a picture that stands changes through compression alone.
_STANDS = 4.0
#: A joint that moves by this part of its range within the window is seen.
_SEEN = 0.2
#: Grey levels that all of a picture gets brighter or darker at once, and how alike it must be otherwise.
_JUMP, _ALIKE = 8.0, 0.95
#: Correlation of pictures and joints from which on a delay is one, and how much better it must fit than none: cameras
#: at wrists, which see the other arm and what is carried, fit best up to two frames away from where they belong.
_CORRELATED, _BETTER = 0.5, 0.05


def camera_findings(camera: Camera, motion: Motion) -> list[Finding]:
    """Everything about one camera."""
    found: list[Finding] = []
    if camera.damaged:
        found.append(
            Finding(
                "damaged_pictures",
                f"{len(camera.damaged)} episodes, for example: {next(iter(camera.damaged.values()))}",
                subjects=(camera.name,),
                episodes=tuple(sorted(camera.damaged)),
            )
        )
    found += [Finding("doubtful_video", text, subjects=(camera.name,)) for text in camera.warnings[:3]]
    if np.isnan(camera.brightness).all():
        return found
    blank = list(_blank(camera, motion))
    if any(one.severity == "error" for one in blank):
        return [*found, *blank]
    frozen = list(_frozen(camera, motion))
    if any(one.severity == "error" for one in frozen):
        return [*found, *blank, *frozen]
    return [*found, *blank, *frozen, *_timing(camera, motion), *_exposure(camera, motion)]


def stretches(hit: np.ndarray, motion: Motion, least: int) -> list[tuple[int, int]]:
    """Runs of at least `least` rows that are hit, within episodes: first row and the one after the last."""
    found = []
    for rows in motion.rows():
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hit[rows].astype(np.int8), [0]])))
        found += [
            (rows.start + a, rows.start + b)
            for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
            if b - a >= least
        ]
    return found


def _moved(motion: Motion, window: int) -> np.ndarray:
    """How far every joint is from where it was `window` frames ago, float64 (N, D); NaN at the start of episodes."""
    state = np.where(np.isfinite(motion.state), motion.state, 0.0).astype(np.float64)
    moved = np.full(state.shape, np.nan)
    for rows in motion.rows():
        moved[rows.start + window : rows.stop] = np.abs(
            state[rows.start + window : rows.stop] - state[rows.start : max(rows.start, rows.stop - window)]
        )
    return moved


def _blank(camera: Camera, motion: Motion) -> Iterator[Finding]:
    known = ~np.isnan(camera.brightness)
    dark = _empty(camera)
    runs = stretches(dark, motion, 1)
    if runs:
        part = dark.sum() / known.sum()
        yield Finding(
            "blank",
            f"{camera.name}: {part:.1%} of the pictures are black, white or of one colour, the first in "
            f"episode {motion.episode_of(runs[0][0])}",
            "error" if part > 0.2 else "warning",
            (camera.name,),
            tuple(np.unique(motion.episode_of(np.flatnonzero(dark))).tolist()),
            (runs[0][0],),
        )


def _empty(camera: Camera) -> np.ndarray:
    """Pictures that show nothing, bool (N,)."""
    return (camera.brightness < 6) | (camera.brightness > 249) | (camera.contrast < 2)


def _frozen(camera: Camera, motion: Motion) -> Iterator[Finding]:
    """Pictures that stand while joints move whose motion this camera shows otherwise."""
    span = spans(motion.state)
    correlated, moved = seen_joints(camera, motion, max(4, round(motion.fps / 2)))
    known = ~np.isnan(camera.drift) & ~_empty(camera)
    far = (moved > _SEEN * span) & (span > 1e-4) & known[:, None]
    counts = far.sum(0)
    used = counts >= min(20, max(1, counts.max()))
    if not counts.any():
        return
    seen = np.divide(
        (far & (camera.drift > _STANDS)[:, None]).sum(0), counts, out=np.zeros(len(span)), where=used & (counts > 0)
    )
    watched = used & correlated & (seen >= 0.5)
    watched = watched if watched.any() else used & (seen >= seen.max() - 0.01)
    moving = far[:, watched].any(1)
    stands = moving & (camera.drift <= _STANDS)
    if seen.max() < 0.5:
        yield Finding(
            "frozen",
            f"{camera.name}: the pictures stand in {stands.sum() / moving.sum():.0%} of the frames in "
            "which joints move",
            "error",
            (camera.name,),
            tuple(np.unique(motion.episode_of(np.flatnonzero(stands))).tolist()),
            tuple(int(row) for row in np.flatnonzero(stands)[:1] for row in (row - camera.window, row)),
        )
        return
    runs = stretches(stands, motion, 3)
    if runs:
        part = sum(b - a for a, b in runs) / moving.sum()
        longest = max(runs, key=lambda run: run[1] - run[0])
        lasts = (longest[1] - longest[0] + camera.window) / motion.fps
        yield Finding(
            "frozen",
            f"{camera.name}: the pictures stand {len(runs)} times while joints move, {part:.1%} of such "
            f"frames; longest for {lasts:.1f} s in episode {motion.episode_of(longest[0])}",
            "error" if part > 0.2 else "warning",
            (camera.name,),
            tuple(np.unique(motion.episode_of(np.array([a for a, _ in runs]))).tolist()),
            (longest[0] - camera.window, sum(longest) // 2, longest[1] - 1),
        )


def _timing(camera: Camera, motion: Motion) -> Iterator[Finding]:
    """Pictures that are written several times, and pictures of another moment than the joint values."""
    part, repeats = _repeated(camera, motion)
    if part > 0.3:
        yield Finding(
            "camera_rate",
            f"{camera.name}: {part:.0%} of the pictures of moving scenes are those of the frame before: "
            f"about {motion.fps * (1 - part):.3g} new ones a second, not {motion.fps:g}",
            subjects=(camera.name,),
            rows=repeats,
        )
    age = 0.5 / (1 - part) - 0.5 if part > 0.3 else 0.0  # of repeated pictures, on average
    farthest = max(4, round(motion.fps / 2))
    delay, likeness, curve = picture_delay(camera, motion, farthest)
    if likeness >= _CORRELATED and abs(delay - age) >= 1.5 and likeness - curve[farthest] > _BETTER:
        side = "after" if delay > 0 else "before"
        yield Finding(
            "sync",
            f"{camera.name}: pictures come {abs(delay) / motion.fps:.2f} s ({abs(delay):.1f} frames) {side} "
            f"the joint values that belong to them (correlation {likeness:.2f}, {curve[farthest]:.2f} as recorded)",
            subjects=(camera.name,),
        )


def _repeated(camera: Camera, motion: Motion) -> tuple[float, tuple[int, ...]]:
    """Part of the pictures of moving scenes that are those of the frame before, at most 0.9; and rows that show it."""
    change = np.nan_to_num(camera.change)
    around = np.zeros_like(change)
    for rows in motion.rows():
        around[rows] = np.lib.stride_tricks.sliding_window_view(np.pad(change[rows], 4), 9).max(1)
    # Slow motion may not reach the next pixel within a frame: the faster half of it has to.
    fast = np.nan_to_num(_moved(motion, camera.window).max(1))
    moving = (fast > np.median(fast)) & (around > 3 * _STANDS) & ~np.isnan(camera.change)
    again = moving & (change < 0.25 * around) & (change < _STANDS)
    if moving.sum() < 30 or not again.any():
        return 0.0, ()
    shown = int(np.where(again, around, 0).argmax())
    return min(0.9, float(again.sum() / moving.sum())), (shown - 1, shown)


def picture_delay(camera: Camera, motion: Motion, farthest: int) -> tuple[float, float, np.ndarray]:
    """Frames by which pictures come after the joint values of what they show; negative where they come before.

    What moves in the pictures is compared with what moves in the joints, both since `camera.window` frames before, on a
    logarithmic scale, at all shifts up to `farthest` frames. Of the joints those count that this camera sees best: its
    own arm, where it is at a wrist.

    Returns:
        Delay in frames, with fractions; the correlation there; and the correlation at every shift from -farthest.
    """
    shifts = list(range(-farthest, farthest + 1))
    seen, moved = seen_joints(camera, motion, farthest)
    likeness = _likeness_at(shifts, camera, motion, moved[:, seen].sum(1, keepdims=True))[:, 0]
    best = int(likeness.argmax())
    delay = float(shifts[best])
    if 0 < best < len(shifts) - 1:
        before, at, after = likeness[best - 1 : best + 2]
        curve = before - 2 * at + after
        delay += float(np.clip((before - after) / (2 * curve), -0.5, 0.5)) if curve < -1e-12 else 0.0
    return delay, float(likeness[best]), likeness


def seen_joints(camera: Camera, motion: Motion, farthest: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints whose motion a camera sees best, bool (D,), and how far each has moved since `camera.window` frames ago.

    The one that its pictures move with most, and those that come near it; at whatever shift up to `farthest` frames.
    """
    moved = _moved(motion, camera.window)
    each = _likeness_at(range(-farthest, farthest + 1, max(1, farthest // 4)), camera, motion, moved).max(0)
    return each >= 0.7 * each.max(), moved


def _likeness_at(shifts: Sequence[int], camera: Camera, motion: Motion, moved: np.ndarray) -> np.ndarray:
    """Correlation of the pictures' motion with each of `moved` (N, K), at every shift, (shifts, K)."""
    known = np.nan_to_num(moved)
    floor = 0.05 * known.mean(0) + 1e-5 * known.max(0) + 1e-9
    products, ours, theirs = (np.zeros((len(shifts), moved.shape[1])) for _ in range(3))
    for rows in motion.rows():
        first = rows.start + camera.window
        pictures, joints = camera.drift[first : rows.stop, None], moved[first : rows.stop]
        if len(pictures) < 2 * max(map(abs, shifts)) + 4 or np.isnan(pictures).any():
            continue
        a, b = np.log(_smooth(pictures) + 1.0), np.log(_smooth(joints) + floor)
        a, b = a - a.mean(0), b - b.mean(0)
        for i, shift in enumerate(shifts):
            x, y = a[max(0, shift) : len(a) + min(0, shift)], b[max(0, -shift) : len(b) + min(0, -shift)]
            products[i] += (x * y).sum(0)
            ours[i] += (x * x).sum(0)
            theirs[i] += (y * y).sum(0)
    scale = np.sqrt(ours * theirs)
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 1e-9)


def _smooth(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, ((1, 1), (0, 0)), mode="edge")
    return np.asarray(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:])


def _exposure(camera: Camera, motion: Motion) -> Iterator[Finding]:
    jumps = np.flatnonzero((np.abs(np.nan_to_num(camera.shift)) > _JUMP) & (camera.alike > _ALIKE))
    if len(jumps):
        worst = int(jumps[np.abs(camera.shift[jumps]).argmax()])
        yield Finding(
            "exposure_jumps",
            f"{camera.name}: brightness jumps from one frame to the next {len(jumps)} times, by up "
            f"to {abs(camera.shift[worst]):.0f} of 255 grey levels, in episode {motion.episode_of(worst)}",
            subjects=(camera.name,),
            episodes=tuple(np.unique(motion.episode_of(jumps)).tolist()),
            rows=(worst - 1, worst),
        )
    shown = np.where(_empty(camera), np.nan, camera.brightness)
    usable = [rows for rows in motion.rows() if np.isfinite(shown[rows]).any()]
    means = np.array([np.nanmean(shown[rows]) for rows in usable])
    if len(means) >= 2 and np.ptp(means) > 40 and means.std() > 12:
        yield Finding(
            "lighting",
            f"{camera.name}: the mean brightness of episodes lies between {means.min():.0f} and "
            f"{means.max():.0f} of 255",
            subjects=(camera.name,),
            rows=(usable[int(means.argmin())].start, usable[int(means.argmax())].start),
        )


def scene_findings(cameras: Sequence[Camera], motion: Motion) -> list[Finding]:
    """What the first pictures of episodes say: cameras exchanged, and scenes that never vary."""
    return [*_exchanged(cameras, motion), *_same_scene(cameras, motion)]


def _exchanged(cameras: Sequence[Camera], motion: Motion) -> Iterator[Finding]:
    like = [one for one in cameras if one.firsts.shape[1:] == cameras[0].firsts.shape[1:]]
    if len(like) < 2 or len(motion.lengths) < 5:
        return
    flat = np.stack([one.firsts.reshape(len(motion.lengths), -1).astype(np.float64) for one in like])  # (V, E, blocks)
    usual = np.median(flat, axis=1)
    distance = np.abs(flat[:, None] - usual[None, :, None]).mean(-1)  # (V, of V, E)
    own = np.diagonal(distance).T
    nearest = distance.argmin(1)
    wrong = (nearest != np.arange(len(like))[:, None]) & (distance.min(1) < 0.7 * own)
    episodes = np.flatnonzero(wrong.sum(0) >= 2)
    if len(episodes):
        numbers = motion.numbers[episodes].tolist()
        names = tuple(one.name for one, bad in zip(like, wrong[:, episodes].any(1), strict=True) if bad)
        yield Finding(
            "cameras_exchanged",
            f"in episodes {listed(numbers)} the first pictures of {listed(names)} look like "
            "those of each other elsewhere",
            subjects=names,
            episodes=tuple(numbers),
            rows=tuple(int(motion.starts[i]) for i in (*np.flatnonzero(wrong.sum(0) == 0)[:1], episodes[0])),
        )


def _same_scene(cameras: Sequence[Camera], motion: Motion) -> Iterator[Finding]:
    if len(motion.lengths) < 5:
        return
    differ = []
    for camera in cameras:
        firsts = camera.firsts.astype(np.float64)
        differ.append(float(np.median(np.abs(firsts - np.median(firsts, axis=0)).max((1, 2)))))
    if differ and max(differ) < 8:
        yield Finding(
            "same_scene",
            f"the first pictures of half of the {len(motion.lengths)} episodes differ nowhere by more "
            f"than {max(differ):.0f} grey levels",
        )
