"""Which part of a run computes where: the YAML file of `rise improve --cluster`.

    cluster:
      num_nodes: 2
      component_placement:
        env: 0-3        # world model and value
        rollout: 4-7    # policy
        actor: 0-7      # learner

Places are counted over the machines, the one that the command runs on first: GPUs where there are any, else CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rise_env.config import decode, load_yaml
from rise_env.errors import ConfigError, check_known, requirement

__all__ = ["COMPONENTS", "ClusterConfig", "load_cluster", "parse_places"]

COMPONENTS = ("env", "rollout", "actor")


@dataclass(frozen=True)
class ClusterConfig:
    """Machines, and what computes where.

    Attributes:
        num_nodes: Machines that the run waits for.
        component_placement: Places by component, e.g. {"env": "0-3", "rollout": "4-7", "actor": 0}; several components
            may be named together ("env,rollout") and may share places. "all" stands for all places. Without `rollout`
            the learner proposes chunks itself, without `env` it imagines them. The first place of `actor` is 0, the
            process of the command; others share the updates.
        envs_per_shard: Environments that are imagined in one batch, unless the agent's own settings say `max_batch`.
            Another number gives other last digits; the number of workers does not.
        wait_seconds: How long to wait for the machines.
    """

    num_nodes: int = 1
    component_placement: dict[str, Any] = field(default_factory=lambda: {"env,rollout": "all", "actor": 0})
    envs_per_shard: int = 8
    wait_seconds: float = 120.0

    def __post_init__(self) -> None:
        require = requirement("cluster")
        require.at_least(1, self, "num_nodes", "envs_per_shard")
        require.positive(self, "wait_seconds")
        placed = self.places(1 << 16)  # a mistake in the file is said before anything is started
        require("env" in placed or "rollout" in placed, "component_placement places neither env nor rollout")
        first = placed.get("actor", [0])[0]
        require(first == 0, f"the first learner is this process, on place 0: write actor: 0 or 0-{first}, not {first}")

    def places(self, count: int) -> dict[str, list[int]]:
        """Places of every component where there are `count` of them.

        Raises:
            ConfigError: If a component is unknown or placed twice, or a place is not there.
        """
        found: dict[str, list[int]] = {}
        for names, value in self.component_placement.items():
            for name in (part.strip() for part in str(names).split(",")):
                check_known("component", name, COMPONENTS)
                requirement("cluster")(name not in found, f"component_placement places {name} twice")
                found[name] = parse_places(value, count)
        return found


def parse_places(value: Any, count: int) -> list[int]:
    """Places such as 3, "0-3", "0-1,6" or "all", rising, out of `count`.

    Raises:
        ConfigError: If it is no such thing, or a place is not there.

    Example:
        >>> parse_places("0-2,5", 8)
        [0, 1, 2, 5]
    """
    if value == "all":
        return list(range(count))
    found: set[int] = set()
    for part in str(value).split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ConfigError(f"component_placement: {value!r} is no place; expected such as 3, 0-3, 0-1,6 or all")
        low, high = int(first), int(last or first)
        if not low <= high < count:
            raise ConfigError(
                f"component_placement: {part.strip()} is not within the places 0-{count - 1}: give more machines "
                "(num_nodes) or other places"
            )
        found.update(range(low, high + 1))
    return sorted(found)


def load_cluster(path: Path) -> ClusterConfig:
    """Read a file of `--cluster`.

    Raises:
        ConfigError: If it is missing or wrong; nothing was started.
    """
    content = load_yaml(path)
    if not isinstance(content.get("cluster"), Mapping):
        raise ConfigError(f"{path} has no section 'cluster' with num_nodes and component_placement")
    return decode(ClusterConfig, content["cluster"], f"cluster {path}")
