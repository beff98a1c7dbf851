"""Runs: budgets, checkpoints, what is left in a run folder; killed and slowed down, they end with the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rise_agents.algorithms.base import Algorithm
from rise_agents.algorithms.selective_rise import SelectiveRISE, SelectiveRISEConfig
from rise_agents.training.presets import AgentPreset, load_agent_preset, parse_settings
from rise_agents.training.runner import Budget, Film, Runner, read_history
from rise_env.errors import ConfigError
from tests.rise_agents.algorithms.conftest import Lab

LAB = Lab()


def algorithm(**changes: Any) -> SelectiveRISE:
    settings = {"num_candidates": 4, "top_k": 2, "min_advantage_gap": 0.02, "batch_size": 16, "epochs": 1, **changes}
    return SelectiveRISE(LAB.policy(offset=0.5), LAB.envs(), SelectiveRISEConfig(**settings))  # type: ignore[arg-type]


def run(folder: Path, made: SelectiveRISE | None = None, chunks: int = 400, **given: Any) -> SelectiveRISE:
    given = {"progress_bar": False, "tensorboard": False, **given}
    found = Runner(made or algorithm(), folder, Budget(chunks), **given).run()
    assert isinstance(found, SelectiveRISE)
    return found


def same(one: Algorithm[Any], other: Algorithm[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.policy.state_dict().values(), other.policy.state_dict().values(),
                                                 strict=True))  # fmt: skip


def test_a_run_folder_holds_what_a_user_looks_for(tmp_path: Path) -> None:
    film_env = LAB.envs(2, render_mode="rgb_array")
    looked: list[int] = []
    done = run(tmp_path, tensorboard=True, probes=[Film(film_env), lambda one: looked.append(one.num_timesteps)])
    assert looked == [0, done.num_timesteps]
    assert {path.name for path in tmp_path.iterdir()} == {
        "model", "training_state.pt", "metrics.json", "history.json", "seconds.json", "tensorboard"
    }  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_timesteps"] == done.num_timesteps >= 400
    assert {"train/loss", "rollout/advantage", "time/imagined_chunks_per_second"} <= set(metrics)
    assert read_history(tmp_path)[0]["chunks"] == 16
    written = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"train/loss", "train/learning_rate", "rollout/advantage"} <= set(written.Tags()["scalars"])
    assert "rollout/advantages" in written.Tags()["histograms"]
    assert [film.step for film in written.Images("imagined")] == [0, done.num_timesteps]


def test_a_finished_run_is_not_run_again_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert (again.num_timesteps, same(first, again)) == (first.num_timesteps, True)
    more = run(tmp_path, chunks=600)
    assert more.num_timesteps >= 600
    assert not same(first, more)


def test_after_an_error_a_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    made = algorithm()
    inner, calls = made.step, []

    def fails() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise OSError("no space left")
        inner()

    made.step = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        run(tmp_path, made)
    assert same(run(tmp_path), run(tmp_path / "whole"))


def test_an_interrupted_round_is_done_again(tmp_path: Path) -> None:
    made = algorithm(epochs=8)
    inner, calls = made.learner.update, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 12:  # in the middle of a round
            raise KeyboardInterrupt
        return inner(*args)

    made.learner.update = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path, made)
    kept = algorithm(epochs=8)
    assert kept.restore(tmp_path)  # the first round is saved however little time has passed
    assert kept.rounds == 1
    assert stopped.value.__notes__ == [f"{tmp_path} keeps {kept.spent} chunks: the same command goes on from there"]
    assert same(run(tmp_path, algorithm(epochs=8)), run(tmp_path / "whole", algorithm(epochs=8)))


def test_in_the_first_round_nothing_is_kept_and_that_is_said(tmp_path: Path) -> None:
    made = algorithm()

    def interrupted() -> None:
        raise KeyboardInterrupt

    made.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path, made)
    assert stopped.value.__notes__ == [f"{tmp_path} keeps nothing yet: the first checkpoint follows the first round"]


def test_time_is_a_cap_alone(tmp_path: Path) -> None:
    short = Runner(
        algorithm(), tmp_path / "short", Budget(400, minutes=1e-9), progress_bar=False, tensorboard=False
    ).run()  # fmt: skip
    assert short.rounds == 1
    again = Runner(
        algorithm(), tmp_path / "short", Budget(400, minutes=1e-9), progress_bar=False, tensorboard=False
    ).run()  # fmt: skip
    assert again.rounds == 1  # the time is used up
    assert same(run(tmp_path / "short"), run(tmp_path / "whole"))  # the rest follows, as if nothing had been
    for wrong in ({"chunks": 0}, {"chunks": 1, "minutes": 0.0}):
        with pytest.raises(ConfigError):
            Budget(**wrong)  # type: ignore[arg-type]


def test_a_slow_machine_learns_the_same(tmp_path: Path) -> None:
    slow = algorithm()
    inner = slow.step

    def delayed() -> None:
        started = time.perf_counter()
        inner()
        time.sleep(3 * (time.perf_counter() - started))

    slow.step = delayed  # type: ignore[method-assign]
    assert same(run(tmp_path / "slow", slow, save_seconds=0.1), run(tmp_path / "fast"))


KILLED = """
    import importlib.util, os, random, signal, sys
    from pathlib import Path

    import torch._dynamo  # any optimiser imports it, for seconds: here, once for all that are forked

    def loaded(name):  # by path: the folder of tests is no package
        path = Path({root!r}, *name.split(".")).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    loaded("tests.rise_agents.algorithms.conftest")
    runs = loaded("tests.rise_agents.training.test_runner")
    algorithm, run = runs.algorithm, runs.run

    folder = Path(sys.argv[1])
    for number in range(8):
        # A fork of a process that has not computed anything yet: imports are paid for once.
        child = os.fork()
        if not child:
            left = random.Random(number).randrange(1, 12)
            import rise_agents.algorithms.base as base
            import rise_env.files as files

            def counted(function):
                def call(*args, **kwargs):
                    nonlocal_left[0] -= 1
                    if not nonlocal_left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args, **kwargs)
                return call

            nonlocal_left = [left]
            files.os.replace = counted(os.replace)  # half-written files
            made = algorithm()
            made.step = counted(made.step)
            made.learner._gradients = counted(made.learner._gradients)
            run(folder, made, save_seconds=0.0)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "ended", flush=True)
    run(folder, save_seconds=0.0)
"""


@pytest.mark.slow
def test_a_run_killed_at_eight_points_ends_with_the_same_weights(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[3])
    script = textwrap.dedent(KILLED.format(root=root))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")], capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("killed") >= 6
    whole = run(tmp_path / "whole")
    killed = algorithm()
    assert killed.restore(tmp_path / "killed")
    assert killed.num_timesteps == whole.num_timesteps
    assert same(killed, whole)


def test_presets_of_agents(tmp_path: Path) -> None:
    shipped = load_agent_preset("selective-rise", "brick_sorting")
    assert (shipped.algorithm, shipped.chunks) == ("selective_rise", 44_000)
    assert load_agent_preset("rise", "g1_bottle") == AgentPreset("rise")  # no file: the algorithm with its defaults
    assert load_agent_preset("dsrl", "box_closing") == load_agent_preset("dsrl", "brick_sorting")  # it extends that one
    file = tmp_path / "mine.yaml"
    file.write_text("algorithm: rise\nchunks: 10\nconfig:\n  horizon: 1\n", encoding="utf-8")
    mine = load_agent_preset(str(file), "brick_sorting").replace({"seed": 3}, num_envs=4, chunks=None)
    assert mine == AgentPreset("rise", chunks=10, num_envs=4, config={"horizon": 1, "seed": 3})
    file.write_text("algorithm: rise\nconfig:\n  horizn: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="horizon"):
        load_agent_preset(str(file), "brick_sorting")
    with pytest.raises(ConfigError, match=r"Known: .*selective_rise"):
        load_agent_preset("rize", "brick_sorting")
    assert parse_settings(["a=1", "b=[x]"]) == {"a": 1, "b": ["x"]}
    for wrong in ("a", "a={"):
        with pytest.raises(ConfigError, match="override 'a"):
            parse_settings([wrong])
