"""Domain variation: lighting, colours, friction and camera pose, drawn per episode."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from rise_robot.cell.config import VariationConfig

__all__ = ["DomainVariation"]


class DomainVariation:
    """Varies a compiled model in place around its nominal values.

    Args:
        model: The cell's model; its present values are the nominal ones.
        config: Ranges; nothing is drawn and nothing changes where it is not enabled.
    """

    def __init__(self, model: mujoco.MjModel, config: VariationConfig) -> None:
        self._model = model
        self._config = config
        self._camera = model.camera("head").id
        self._nominal = self.get_state()

    def get_state(self) -> dict[str, np.ndarray]:
        """Present values of everything that varies."""
        return {name: values.copy() for name, values in self._varied().items()}

    def _varied(self) -> dict[str, np.ndarray]:
        """Views into the model."""
        model, camera = self._model, self._camera
        whole = {name: getattr(model, name) for name in ("light_diffuse", "light_dir", "geom_rgba", "geom_friction")}
        return {**whole, "camera_pos": model.cam_pos[camera], "camera_quat": model.cam_quat[camera]}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Apply values returned by `get_state`."""
        for name, values in self._varied().items():
            values[:] = state[name]

    def draw(self, rng: np.random.Generator) -> None:
        """Return to the nominal values and, where enabled, vary them."""
        self.set_state(self._nominal)
        config, model = self._config, self._model
        if not config.enabled:
            return
        model.light_diffuse[:] *= rng.uniform(1 - config.light, 1 + config.light)
        model.light_dir[:] += rng.uniform(-2 * config.light, 2 * config.light, model.light_dir.shape) * 0.5
        model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=-1, keepdims=True)
        shift = rng.uniform(-config.colour, config.colour, (model.ngeom, 3))
        model.geom_rgba[:, :3] = np.clip(model.geom_rgba[:, :3] + shift, 0, 1)
        model.geom_friction[:, 0] *= rng.uniform(1 - config.friction, 1 + config.friction)
        model.cam_pos[self._camera] += rng.uniform(-config.camera_position, config.camera_position, 3)
        turn = np.empty(4)
        mujoco.mju_euler2Quat(turn, rng.uniform(-config.camera_angle, config.camera_angle, 3), "XYZ")
        varied = np.empty(4)
        mujoco.mju_mulQuat(varied, model.cam_quat[self._camera], turn)
        model.cam_quat[self._camera] = varied
