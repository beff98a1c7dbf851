"""What an interruption leaves of a training, and says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rise_env.training.config import LoopConfig
from rise_env.training.loop import Budget, Loop


def loop(folder: Path, stop_at: int) -> Loop:
    module = nn.Linear(2, 1)

    def loss(step: int, _: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if step == stop_at:
            raise KeyboardInterrupt
        value = module(torch.ones(1, 2)).square().sum()
        return value, {"loss": value.detach()}

    return Loop("part", folder, module, loss, LoopConfig(checkpoint_seconds=0.0), Budget(steps=9), {})


def test_an_interruption_says_what_is_kept(tmp_path: Path) -> None:
    nothing = f"{tmp_path} keeps nothing of this yet (part): it begins anew"
    four = f"{tmp_path}/part_state.pt keeps 4 updates: the same command goes on from there"
    for stop_at, kept in ((0, nothing), (4, four), (4, four)):
        with pytest.raises(KeyboardInterrupt) as stopped:
            loop(tmp_path, stop_at).run()
        assert stopped.value.__notes__ == [kept]
