"""Datasets: LeRobot v3.0 and v2.1 behind one interface, windows, samplers, statistics, splits and label sidecars.

`open_dataset` opens, `Windows` cuts, a sampler draws; `Dataset.frames` decodes every video once and never again.
"""

from rise_env.data.cache import cache_root
from rise_env.data.dataset import Dataset
from rise_env.data.labels import interventions, label_tags, read_advantages, read_values, write_advantages, write_values
from rise_env.data.lag import command_lag
from rise_env.data.opening import open_dataset
from rise_env.data.samplers import FocusedSampler, Sampler, ShuffledSampler, TaskCentricSampler
from rise_env.data.splits import split_episodes
from rise_env.data.stats import Stats, compute_stats
from rise_env.data.windows import WindowBatch, Windows
from rise_env.errors import DatasetError

__all__ = [
    "Dataset",
    "DatasetError",
    "FocusedSampler",
    "Sampler",
    "ShuffledSampler",
    "Stats",
    "TaskCentricSampler",
    "WindowBatch",
    "Windows",
    "cache_root",
    "command_lag",
    "compute_stats",
    "interventions",
    "label_tags",
    "open_dataset",
    "read_advantages",
    "read_values",
    "split_episodes",
    "write_advantages",
    "write_values",
]
