"""From what clients send to what policies read: camera names, image layouts and sizes, black bars, joint states."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_env.data.video import resize
from rise_env.errors import ConfigError, requirement
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec

__all__ = ["BARS", "ObservationReader", "Reading", "camera_aliases"]

logger = logging.getLogger(__name__)

#: What to do with an image of another shape than the policy's: see `ObservationReader`.
BARS = ("auto", "cut", "add")
_DARK = 16  # mean grey level that black bars stay below even after a JPEG round trip
_LEAST, _MOST = 8, 8192  # pixels of a side
_FAR = 0.5  # of a joint's range outside its limits: another unit, or no joint state


@dataclass(frozen=True)
class Reading:
    """One observation, checked.

    Attributes:
        present: `image_<camera>` uint8 (H, W, 3) at the policy's size, `state` float32 (D,).
        past: The same under lagged keys, if the client sent them; else empty.
        used: Top-level keys, and images as "images/<name>", that were read.
    """

    present: dict[str, np.ndarray]
    past: dict[str, np.ndarray]
    used: frozenset[str]


def camera_aliases(spec: TaskSpec) -> dict[str, str]:
    """Names under which a camera's image may come in `images`, to the camera.

    The camera itself, its dataset feature key, and the last part of that, which is what RISE and kai0 send
    (`observation.images.top_head`: top_head).
    """
    names: dict[str, str] = {}
    for camera, feature in spec.cameras.items():
        for name in (camera, feature, feature.rpartition(".")[2]):
            if (other := names.setdefault(name, camera)) != camera:
                raise ConfigError(f"camera name {name!r} means both {other!r} and {camera!r} in task {spec.name!r}")
    return names


class ObservationReader:
    """Reads the observations of one client.

    An image of the policy's shape is resized as training data are. One of another shape may have black bars that its
    client added (RISE and kai0 send 224 x 224 made by openpi's `resize_with_pad`), or none: with bars "cut" they are
    cut off, and it is an error if they are not black; with "add" the image gets bars. With "auto" the first image whose
    outer parts tell decides, for as long as the client stays connected, so that all pictures are treated alike.

    Args:
        spec: Task of the policy.
        lags: Past moments that the policy reads, in control steps.
        bars: One of `BARS`.

    Attributes:
        bars: What was decided: "auto" while there was nothing to decide.
    """

    def __init__(self, spec: TaskSpec, lags: tuple[int, ...], bars: str = "auto") -> None:
        requirement("images").one_of(BARS, bars=bars)
        self._spec, self._lags, self.bars = spec, lags, bars
        self._aliases = camera_aliases(spec)
        self._warned = False

    def read(self, observation: Mapping[str, Any]) -> Reading:
        """Check and convert an observation.

        Raises:
            ConfigError: If something is missing, or has a wrong type, shape or value; the message names the key, what
                came and what was expected.
        """
        images, used = self._nested_images(observation)
        present: dict[str, np.ndarray] = {}
        for camera in self._spec.cameras:
            key = image_key(camera)
            if key in observation:
                if camera in images:
                    raise ConfigError(f"camera {camera!r} came twice: as {key!r} and in 'images'")
                present[key] = self._image(key, observation[key])
                used.add(key)
            elif camera in images:
                name, value = images[camera]
                present[key] = self._image(f"images/{name}", value)
            else:
                raise ConfigError(self._no_camera(camera, observation))
        present["state"], past = self._state("state", observation), self._past(observation)
        return Reading(present, past, frozenset({*used, "state", *past}))

    def _nested_images(self, observation: Mapping[str, Any]) -> tuple[dict[str, tuple[str, Any]], set[str]]:
        """Images in `images` by camera, with the name that each came under."""
        nested = observation.get("images", {})
        if not isinstance(nested, Mapping):
            raise ConfigError(f"'images' is a {type(nested).__name__}, expected a map of camera names to images")
        images: dict[str, tuple[str, Any]] = {}
        for name in [name for name in nested if name in self._aliases]:
            camera = self._aliases[name]
            if camera in images:
                raise ConfigError(f"camera {camera!r} came twice: as 'images/{images[camera][0]}' and 'images/{name}'")
            images[camera] = (name, nested[name])
        return images, {f"images/{name}" for name, _ in images.values()}

    def _past(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        cameras = [image_key(camera) for camera in self._spec.cameras]
        wanted = [lag_key(key, lag) for lag in self._lags for key in (*cameras, "state")]
        given = [key for key in wanted if key in observation]
        if not given:
            return {}
        if missing := [key for key in wanted if key not in observation]:
            raise ConfigError(
                f"{given[0]!r} came, but {missing[0]!r} did not: send the past of all cameras and of the state "
                f"({', '.join(wanted)}), or none of it; then the server remembers it"
            )
        states = {lag_key("state", lag) for lag in self._lags}
        return {
            key: self._state(key, observation) if key in states else self._image(key, observation[key])
            for key in wanted
        }

    def _state(self, key: str, observation: Mapping[str, Any]) -> np.ndarray:
        layout = self._spec.layout
        expected = f"expected {layout.dim} floats in rad and m: {', '.join(layout.names)}"
        if key not in observation:
            raise ConfigError(f"the observation has no {key!r}; {expected}. It has {_names(observation)}")
        value = observation[key]
        if isinstance(value, list) and all(type(part) in (int, float) for part in value):
            value = np.array(value, np.float64)
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise ConfigError(f"{key!r} is {_kind(value)}, {expected}")
        if value.shape != (layout.dim,):
            raise ConfigError(f"{key!r} has shape {value.shape}, {expected}")
        with np.errstate(over="ignore"):
            state = value.astype(np.float32)
        if bad := [name for name, fine in zip(layout.names, np.isfinite(state), strict=True) if not fine]:
            raise ConfigError(f"{key!r} is not finite (NaN or infinity) at: {', '.join(bad)}")
        self._check_limits(key, state)
        return state

    def _check_limits(self, key: str, state: np.ndarray) -> None:
        """Refuse what no arm of this layout can measure; warn once of what lies a little outside."""
        layout = self._spec.layout
        outside = layout.furthest_outside(state)
        if outside is None or outside.excess <= layout.tolerance:
            return
        said = f"{key!r}: {outside.message}, tolerance {layout.tolerance:g} of its range"
        if outside.excess > max(_FAR, layout.tolerance):
            raise ConfigError(
                f"{said}. Send joints in rad and m; if these are right, widen limits or tolerance of the layout "
                f"{layout.name!r}"
            )
        if not self._warned:
            self._warned = True
            logger.warning("a client's state lies outside the joint limits: %s", said)

    def _image(self, key: str, value: Any) -> np.ndarray:
        size = self._spec.image_size
        expected = f"expected a uint8 RGB image (H, W, 3) or (3, H, W), best of {size[0]} x {size[1]} pixels"
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
            raise ConfigError(f"{key!r} is {_kind(value)}, {expected}")
        if value.ndim != 3 or 3 not in (value.shape[0], value.shape[2]):
            raise ConfigError(f"{key!r} has shape {value.shape}, {expected}")
        image = value if value.shape[2] == 3 else value.transpose(1, 2, 0)
        if min(image.shape[:2]) < _LEAST or max(image.shape[:2]) > _MOST:
            raise ConfigError(f"{key!r} has shape {value.shape}: sides must be of {_LEAST} to {_MOST} pixels")
        if image.shape[:2] == size:
            return image.copy()  # arrays off the wire are read-only
        return self._fitted(key, image, size)

    def _fitted(self, key: str, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        height, width = image.shape[:2]
        rows, columns = _largest(size, (height, width))
        if height - rows <= 1 and width - columns <= 1:
            return _resized(image, size)
        inside = _middle((height, width), (rows, columns))
        bars = np.ones((height, width), bool)
        bars[inside] = False
        dark = float(image[bars].mean()) < _DARK
        if self.bars == "auto" and (not dark or float(image[inside].mean()) >= _DARK):
            self.bars = "cut" if dark else "add"
        if self.bars == "add":
            fitted, target = np.zeros((*size, 3), np.uint8), _largest((height, width), size)
            fitted[_middle(size, target)] = _resized(image, target)
            return fitted
        if not dark:
            raise ConfigError(
                f"{key!r} of {height} x {width} pixels has other proportions than the policy's images, {size[0]} x "
                f"{size[1]}, and no black bars to cut off: send whole pictures of the camera, or serve with --bars add"
            )
        return _resized(image[inside], size)

    def _no_camera(self, camera: str, observation: Mapping[str, Any]) -> str:
        names = [name for name, known in self._aliases.items() if known == camera]
        return (
            f"the observation has no image of camera {camera!r}; expected {image_key(camera)!r}, or in 'images' one of "
            f"{', '.join(map(repr, names))}. It has {_names(observation)}"
        )


def _largest(shape: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest picture of a shape's proportions that fits in another."""
    if within[1] * shape[0] <= within[0] * shape[1]:
        return max(1, within[1] * shape[0] // shape[1]), within[1]
    return within[0], max(1, within[0] * shape[1] // shape[0])


def _middle(outer: tuple[int, int], inner: tuple[int, int]) -> tuple[slice, slice]:
    top, left = (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
    return slice(top, top + inner[0]), slice(left, left + inner[1])


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import av

    return resize(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"), size)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} with shape {value.shape}"
    return f"a {type(value).__name__}"


def _names(observation: Mapping[str, Any]) -> str:
    names = [str(key) for key in observation if key != "images"]
    nested = observation.get("images")
    names += [f"images/{name}" for name in nested] if isinstance(nested, Mapping) else []
    return ", ".join(sorted(names)) or "nothing"
