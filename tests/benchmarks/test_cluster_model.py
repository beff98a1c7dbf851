"""The model of a cluster: what is given decides, and what is wished for is called so."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from benchmarks.cluster_model import add_arguments, run


def model(*arguments: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def test_a_round_adds_up() -> None:
    found = model("--gpus", "1", "8", "--straggling", "0", "--chunk-seconds", "0.1", "--learners", "8")
    one, eight = found["rows"]
    assert (one["chunks"], eight["chunks"], eight["machines"]) == (32, 256, 1)
    assert one["seconds"]["imagine"] == eight["seconds"]["imagine"] == pytest.approx(2 * 16 * 0.1)
    assert eight["updates"] == 20  # 4 passes over 256 chunks, 51.2 of them in every batch
    assert eight["chunks_per_second"] == pytest.approx(256 / sum(eight["seconds"].values()))
    assert one["efficiency"] == 1.0
    assert found["inputs"]["chunk_seconds"] == {"value": 0.1, "source": "given"}
    assert "not measured" in found["inputs"]["propose_seconds"]["source"]


def test_halves_of_the_gpus_take_twice_as_long_and_one_learner_limits_many() -> None:
    shared, apart = (model("--gpus", "8", "--straggling", "0", "--placement", name)["rows"][0]["seconds"]
                     for name in ("shared", "apart"))  # fmt: skip
    assert apart["imagine"] == pytest.approx(2 * shared["imagine"])
    assert model("--gpus", "64")["rows"][0]["limited_by"] == "encode"
    assert model("--gpus", "64", "--learners", "64")["rows"][0]["limited_by"] != "encode"
