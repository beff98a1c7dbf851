"""Put further parts into a bundle: policies to start from beside its base policy, and a critic of outcomes.

  rise extend bundles/mine --policy novice=runs/few --out bundles/mine
  rise extend bundles/mine --critic runs/skilled --out bundles/more

A policy is a run folder, a checkpoint or a Hub id; where a policy is asked for it is called base:NAME from then on,
e.g. `--policy base:novice`. A critic is that of a run of `rise improve --agent outcomes` (its folder, or the `critic/`
in it); `--set outcome.model=bundle` takes it in place of teaching one. Everything else of the bundle is copied as it
is. With the same directory for both, the bundle is replaced in one step.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_agents.cli.options import folder

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle: directory or Hub id")
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME=POLICY", dest="policies", help="repeatable"
    )
    parser.add_argument("--critic", type=Path, metavar="RUN", help="run whose critic to put in, or its folder")
    parser.add_argument("--out", type=folder, required=True, help="directory of the bundle to make or replace")


def run(args: argparse.Namespace) -> int:
    """Read what is given, then write the bundle."""
    from rise_agents.algorithms.outcomes import OutcomeCritic
    from rise_agents.policies.resolve import resolve_policy
    from rise_env.bundle import extend_bundle, load_bundle
    from rise_env.errors import ConfigError

    policies: dict[str, str] = {}
    spec = load_bundle(args.bundle).spec
    for item in args.policies:
        name, equals, given = item.partition("=")
        if not equals:
            raise ConfigError(f"--policy {item}: expected NAME=POLICY")
        if resolve_policy(given, spec=spec).spec.layout.names != spec.layout.names:
            raise ConfigError(f"--policy {item}: it has other joints than the bundle")
        policies[name] = find(given)
    critic = args.critic
    if critic is not None:
        critic = critic / "critic" if (critic / "critic").is_dir() else critic
        OutcomeCritic.from_pretrained(critic)
    bundle = extend_bundle(args.bundle, args.out, policies=policies, critic=critic)
    size = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    print(f"bundle: {bundle.path} ({size / 1e6:.1f} MB; base{''.join(f', base:{name}' for name in bundle.policies)})")
    return 0


def find(name: str) -> str:
    """Directory of a trained policy."""
    from rise_agents.policies.resolve import find_policy

    found = find_policy(name)
    assert found is not None  # it was loaded
    return found
