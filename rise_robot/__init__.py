"""RISE on a robot: the MuJoCo work cell that stands in for hardware, and what runs the real arms."""

from __future__ import annotations

import rise_env  # noqa: F401  (registers the environment ids)
