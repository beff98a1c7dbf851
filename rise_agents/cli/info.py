"""Print versions, hardware, tasks, presets and environment ids.

What to paste into a bug report, and the quickest look at what this installation can do.

  rise info --json info.json
  rise info --settings                     # every key of every YAML file and every agent: meaning, range, default
  rise info --settings selective_rise      # of one agent; likewise `value`, or a key such as `dynamics.training`
  rise info --environment RISE-Reach-v0    # of an environment: spaces, rewards, starts, ends, arguments
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rise_agents.cli.options import new_file

__all__ = ["add_arguments", "collect", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `rise info`."""
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the same as JSON")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--settings", nargs="?", const="", metavar="NAME", help="print settings instead: all of them, or those of NAME"
    )
    instead.add_argument(
        "--environment", nargs="?", const="", metavar="ID", help="print what an environment is instead; no ID: list all"
    )


def run(args: argparse.Namespace) -> int:
    """Print, and write if asked to."""
    from rise_env.files import write_json

    if args.settings is not None:
        from rise_agents.pipelines.settings import reference

        print(reference(args.settings or None))
        return 0
    if args.environment is not None:
        from rise_agents.pipelines.environment_page import environment_page, environment_table

        print(environment_page(args.environment) if args.environment else environment_table())
        return 0
    info = collect()
    print(_text(info))
    if args.json is not None:
        write_json(args.json, info)
    return 0


def collect() -> dict[str, Any]:
    """Provenance, presets by task, environment ids, and all registered names with the plug-in that brought them."""
    import gymnasium

    import rise_env  # registers the ids
    from rise_env.config import available_presets, config_files, config_root
    from rise_env.provenance import provenance
    from rise_env.registry import REGISTRIES, plugin_errors

    presets = available_presets()
    return {
        "location": Path(rise_env.__path__[0]),
        "configs": config_root(),
        "presets": presets,
        "agents": {task: list(config_files(f"{task}/agent")) for task in presets},
        "environments": sorted(name for name in gymnasium.registry if name.startswith("RISE-")),
        "robots": list(config_files("robots")),
        "registries": {kind: {one.name: one.plugin for one in known} for kind, known in REGISTRIES.items()},
        "plugin_errors": plugin_errors(),
        "provenance": provenance(),
    }


def _text(info: dict[str, Any]) -> str:
    source = info["provenance"]
    machine = source["hardware"]
    git = source["git"]
    revision = f"{git['revision']}{' (modified)' if git['modified'] else ''}" if git else "none"
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gib']} GiB)" for gpu in machine["gpus"]) or "none"
    sections = {
        "Packages": {name: version or "missing" for name, version in source["packages"].items()},
        "Code": {"git": revision, "package": str(info["location"]), "configs": str(info["configs"])},
        "Hardware": {
            "system": machine["platform"],
            "cpu": f"{machine['cpu']}, {machine['cpu_count']} cores",
            "memory": f"{machine['memory_gib']} GiB",
            "gpu": gpus,
        },
        "Presets by task": {task: ", ".join(presets) for task, presets in info["presets"].items()},
        "Agents by task (`rise improve --agent`; any algorithm is one, too)": {
            task: ", ".join(agents) for task, agents in info["agents"].items() if agents
        },
        "Environments": dict.fromkeys(info["environments"], ""),
        "Registered": {
            **{kind: ", ".join(map(_with_plugin, known.items())) for kind, known in info["registries"].items()},
            "robots": ", ".join(info["robots"]),
        },
        "Plug-ins that could not be loaded": info["plugin_errors"],
    }
    lines: list[str] = []
    for title, rows in sections.items():
        width = max(map(len, rows), default=0)
        lines += [f"{title}:", *(f"  {name:<{width}}  {value}".rstrip() for name, value in rows.items())]
        lines += [] if rows else ["  none"]
    return "\n".join(lines)


def _with_plugin(item: tuple[str, str | None]) -> str:
    name, plugin = item
    return name if plugin is None else f"{name} ({plugin})"
