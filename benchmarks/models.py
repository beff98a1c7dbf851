"""The bundle and the world model that a benchmark's arguments name."""

from __future__ import annotations

import argparse

from rise_env.bundle import Bundle, find_bundle, load_bundle
from rise_env.world_model import CompositionalWorldModel

__all__ = ["bundle_of", "variant", "world_model_of"]


def variant(args: argparse.Namespace) -> str | None:
    """Which bundle of a task `--preset` means; that of `small` bears the task's name alone."""
    return None if args.preset == "small" else args.preset


def bundle_of(args: argparse.Namespace) -> Bundle:
    """The bundle of `--bundle`, or of `--task` and `--preset`."""
    return load_bundle(args.bundle or find_bundle(args.task, variant(args)))


def world_model_of(args: argparse.Namespace) -> CompositionalWorldModel:
    """The world model of `--world-model`, or of the bundle."""
    if args.world_model:
        return CompositionalWorldModel.from_pretrained(args.world_model, device=args.device)
    return bundle_of(args).world_model(device=args.device)
