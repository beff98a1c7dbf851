"""What is pushed comes back as it was, pinned, offline, and nothing else does; against a fake Hub on loopback."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml

import rise_env  # noqa: F401  (registers the ids)
from rise_agents.cli.main import main
from rise_agents.pipelines.push import describe, folder_to_push
from rise_agents.policies.flow_policy import FlowPolicy
from rise_agents.policies.loading import load_policy
from rise_agents.policies.resolve import find_policy, lerobot_source, record_name
from rise_env.bundle import Bundle, load_bundle
from rise_env.envs.starts import StartStates
from rise_env.errors import CheckpointError, ConfigError
from rise_env.hub import HubId, hub_id
from rise_env.model_card import Card
from rise_env.pretrained import load_registered
from rise_env.provenance import content_fingerprint, provenance
from rise_env.registry import DYNAMICS, POLICIES, VALUES, Registration
from rise_env.value.model import ValueModel
from rise_env.world_model import CompositionalWorldModel


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(one, second.state_dict()[name]) for name, one in first.state_dict().items())


def changed(policy: FlowPolicy) -> FlowPolicy:
    other = copy.deepcopy(policy)
    with torch.no_grad():
        next(other.parameters()).fill_(0.5)
    return other


def metadata(card: bytes) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(card.decode().split("---")[1])
    return content


def test_ids() -> None:
    assert hub_id("lab/bricks") == HubId("lab/bricks")
    assert hub_id(Path("lab/bricks@refs/pr/1")) == HubId("lab/bricks", "refs/pr/1")
    assert [hub_id(name) for name in ("bricks", "../bricks", "./bricks", "/lab/bricks", "a/b/c", "lab/bricks@")] == [
        None
    ] * 6


def test_a_bundle_comes_back_and_works_by_its_id(hub: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    done = bundle.push_to_hub("lab/mine", private=True)
    assert hub.repositories["lab/mine"].private
    assert set(hub.repositories["lab/mine"].files) == {".gitattributes", "README.md", "bundle.json"} | set(
        json.loads((bundle.path / "bundle.json").read_text())["files"]
    )
    card = hub.repositories["lab/mine"].files["README.md"].decode()
    assert "Measured of the dynamics on 2 of 20 recorded episodes, held out from its training:" in card
    assert "Measured of the value on 2 of 20 recorded episodes, which it may have been trained on:" in card
    assert "| `psnr` | 21.5 |" in card
    envs = gymnasium.make_vec("RISE-Imagination-v0", num_envs=2, bundle="lab/mine")
    local = gymnasium.make_vec("RISE-Imagination-v0", num_envs=2, bundle=str(bundle.path))
    np.testing.assert_array_equal(envs.reset(seed=5)[0]["image_head"], local.reset(seed=5)[0]["image_head"])
    found = Bundle.from_pretrained("lab/mine")
    assert content_fingerprint(found.path) == content_fingerprint(bundle.path)
    assert found.name == f"lab/mine@{done.pinned.revision[:12]}"
    assert find_policy("lab/mine") == str(found.policy) == find_policy(found.path)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.fetched)
    assert load_bundle("lab/mine").path == load_bundle(str(done.pinned)).path == found.path
    with pytest.raises(CheckpointError, match=r"no bundle at lab/other.*HF_HUB_OFFLINE is set.*holds no copy"):
        load_bundle("lab/other")
    assert len(hub.fetched) == asked


def test_parts_come_back(hub: Any, bundle: Bundle, policy: FlowPolicy) -> None:
    model = bundle.world_model()
    policy.push_to_hub("lab/policy")
    model.push_to_hub("lab/model")
    model.value.push_to_hub("lab/value")
    bundle.starts().push_to_hub("lab/starts")
    assert same(load_policy("lab/policy"), policy)
    assert same(ValueModel.from_pretrained("lab/value"), model.value)
    assert same(load_registered("lab/value", VALUES), model.value)
    assert CompositionalWorldModel.from_pretrained("lab/model").spec == model.spec
    np.testing.assert_array_equal(StartStates.load("lab/starts").frames, bundle.starts().frames)
    assert (
        len(gymnasium.make_vec("RISE-Imagination-v0", starts="lab/starts", world_model="lab/model").unwrapped.starts)
        == 12
    )
    assert lerobot_source(str(find_policy("lab/policy"))) is None
    assert record_name("lab/policy@v1") == "policy-policy-v1"


def test_a_revision_is_pinned(hub: Any, policy: FlowPolicy) -> None:
    from huggingface_hub import HfApi

    first = policy.push_to_hub("lab/policy")
    HfApi().create_tag("lab/policy", tag="v1")
    other = changed(policy)
    other.push_to_hub("lab/policy")
    assert same(load_policy("lab/policy"), other)
    assert same(load_policy("lab/policy@v1"), policy)
    assert same(load_policy(str(first.pinned)), policy)
    with pytest.raises(CheckpointError, match=r"no branch, tag or commit 'v9'"):
        load_policy("lab/policy@v9")


def test_errors_say_what_is_wrong(hub: Any, policy: FlowPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("lab/llm", {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"large"})
    hub.add("lab/old", {"config.json": json.dumps({"kind": "rise-value"}).encode(), "pytorch_model.bin": b"pickle"})
    hub.add("lab/hidden", {"config.json": b"{}"}, private=True)
    policy.push_to_hub("lab/policy")
    hub.fetched.clear()
    with pytest.raises(CheckpointError, match=r"lab/llm on the Hub is no bundle: it holds no bundle\.json"):
        load_bundle("lab/llm")
    with pytest.raises(CheckpointError, match="of kind None, expected 'rise-world-model'"):
        CompositionalWorldModel.from_pretrained("lab/llm")
    with pytest.raises(CheckpointError, match=r"is no policy: config.json is missing or damaged"):
        load_policy("lab/llm")
    with pytest.raises(CheckpointError, match="of kind 'rise-flow-policy', expected 'rise-value'"):
        ValueModel.from_pretrained("lab/policy")
    with pytest.raises(CheckpointError, match=r"keeps its weights as pytorch_model.bin: those are pickles"):
        load_registered("lab/old", VALUES)
    assert set(hub.fetched) == {"config.json"}, "weights of the wrong kind, or pickles, were fetched"
    with pytest.raises(
        CheckpointError, match=r"no policy at lab/absent.*has no repository 'lab/absent'.*hf auth login"
    ):
        find_policy("lab/absent")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(CheckpointError, match="or it is private and you are not logged in"):
        load_registered("lab/hidden", POLICIES)
    with pytest.raises(CheckpointError, match=r"nothing was uploaded to lab/new: .* refuses .* log in"):
        policy.push_to_hub("lab/new")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(CheckpointError, match=r"no bundle at lab/mine.*127.0.0.1:1 is not reached.*holds no copy"):
        load_bundle("lab/mine")
    with pytest.raises(CheckpointError, match=r"nothing was uploaded to lab/policy: .* is not reached"):
        policy.push_to_hub("lab/policy")


def test_nothing_of_another_kind_is_overwritten(hub: Any, bundle: Bundle, policy: FlowPolicy) -> None:
    policy.push_to_hub("lab/policy")
    hub.add("lab/llm", {"config.json": b'{"model_type": "llama"}'})
    hub.add("lab/data", {"data/train.parquet": b""})
    before = {name: dict(one.files) for name, one in hub.repositories.items()}
    for name, held in (("policy", "rise-flow-policy"), ("llm", "none of ours"), ("data", "data/train.parquet")):
        with pytest.raises(ConfigError, match=rf"lab/{name} holds .*{held}.*this is bundle: it is left alone"):
            bundle.push_to_hub(f"lab/{name}")
    with pytest.raises(ConfigError, match="lab/policy is public"):
        policy.push_to_hub("lab/policy", private=True)
    with pytest.raises(ConfigError, match="give owner/name"):
        policy.push_to_hub("policy")
    assert {name: dict(one.files) for name, one in hub.repositories.items()} == before
    hub.repositories["lab/policy"].commit({**before["lab/policy"], "old.safetensors": b"", "LICENSE": b"mine"})
    policy.push_to_hub("lab/policy")
    assert set(hub.repositories["lab/policy"].files) == {*before["lab/policy"], "LICENSE"}


@pytest.fixture
def run_folder(policy: FlowPolicy, tmp_path: Path) -> Path:
    """A run folder as `rise improve` leaves it, and what `rise evaluate` measured of its policy."""
    folder = tmp_path / "runs" / "rise"
    policy.save_pretrained(folder / "model")
    origin = {**provenance({}, 7), "command": ["rise", "improve", "--seed", "7"]}
    (folder / "config.json").write_text(json.dumps({"data": ["bricks"], "provenance": origin}))
    (folder / "audit.json").write_text(json.dumps([{"chunks": 0, "overall": 0.1}, {"chunks": 640, "overall": 0.62}]))
    (folder / "model" / "training_state.pt").write_bytes(b"pickle")
    episode = {"seed": 0, "success": True, "score": 1.0, "failure_mode": "none", "seconds": 1.0, "chunks": 1}
    measured = {
        "success_rate": 0.75, "success_interval": [0.41, 0.93], "score_mean": 8.0, "episodes": 8, "seconds": 9.0,
        "failure_modes": {"drop": 2}, "episode_seconds": 2.0, "details": [episode],
        "env": "RISE-BrickSorting-Cell-v0", "policy_content": content_fingerprint(folder / "model"),
        "provenance": {**provenance({}, 100), "command": ["rise", "evaluate", "--seed", "100"],
                       "git": {"revision": "a" * 40, "modified": True}},
    }  # fmt: skip
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    return folder


def test_the_command_lists_uploads_and_tells_what_was_measured(
    hub: Any, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["push", str(run_folder), "lab/rise", "--results", "measured.json", "--dataset", "lab/data"]
    run = {"metrics": {"chunks": 640}}
    seen = {
        "states": 64,
        "before": 0.125,
        "after": 0.35,
        "change": {"mean": 0.25, "low": 0.2, "high": 0.3, "groups": 9},
    }
    (run_folder / "judgement.json").write_text(json.dumps({"imagination": seen, "run": run}))
    assert "in imagination" not in describe(run_folder / "model").text(HubId("lab/x")), "the run went on since"
    (run_folder / "metrics.json").write_text(json.dumps(run["metrics"]))
    assert main([*arguments, "--dry-run"]) == 0
    assert hub.repositories == {}
    shown = capsys.readouterr().out
    assert "nothing was uploaded" in shown
    assert main([*arguments, "--license", "mit"]) == 0
    said = capsys.readouterr().out
    assert "policy (rise-flow-policy)" in said
    assert "left out: training_state.pt" in said
    assert "lab/rise is a new public repository" in said
    files = hub.repositories["lab/rise"].files
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    card, text = metadata(files["README.md"]), files["README.md"].decode()
    assert text.replace("license: mit\n", "") in shown
    assert (card["library_name"], card["license"], card["datasets"]) == ("rise-robotics", "mit", ["lab/data"])
    (metric,) = card["model-index"][0]["results"][0]["metrics"]
    assert (metric["value"], metric["args"]["wilson_95"]) == (0.75, [0.41, 0.93])
    for told in ("| 8, seeds 100 to 107 | 75.0% | 41.0% to 93.0% | drop 2 |", "`rise evaluate --seed 100`",
                 f"`{'a' * 40}` with changes", "`rise improve --seed 7`", "| `overall` | 0.62 |",
                 "`bricks`", "from 64 recorded states", "| `change` | 0.25 |"):  # fmt: skip
        assert told in text
    assert "0.1 |" not in text, "an audit of the base policy is none of this one"


def test_held_out_figures_and_known_problems_of_a_training(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run folders as `rise train value` and `rise train dynamics` leave them."""
    counting = Registration("counting", "rise_env.testing:FrameCountingDynamics")
    monkeypatch.setitem(DYNAMICS._known, "counting", counting)
    model = bundle.world_model()
    ranking = {"heads": {"progress": {"mae": 0.125}}, "ranking_problem": "values rank like chance"}
    measured = {
        "value": {"steps": 9, "held_out": ranking},
        "dynamics": {"step": 7531902468, "loss": 0.9, "psnr_end": 21.5},
    }
    for name, metrics in measured.items():
        getattr(model, name).save_pretrained(tmp_path / name / "model")
        origin = {**provenance({}, 4), "data": {"frames": "0123"}}
        (tmp_path / name / "config.json").write_text(json.dumps(origin))
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    value, dynamics = (describe(folder_to_push(tmp_path / name)).text(HubId("lab/x")) for name in measured)
    assert "| `heads/progress/mae` | 0.125 |" in value
    assert "**Known problem**: in its recordings values rank like chance." in value
    assert "| `psnr_end` | 21.5 |" in dynamics
    assert "| seed | 4 |" in dynamics
    deaf = {"psnr": {"gain": {"mean": 0.3, "low": -0.4, "high": 1.0, "groups": 4}}, "reaction": {"ignored": True}}
    ranked = {"correlation": 0.5, "least_correlation": 0.2}
    held_out = {"of": 9, "episodes": [1], "dynamics": deaf, "value": ranked}
    told = Card("bundle", {}, {"held_out": held_out}).text(HubId("lab/x"))
    assert "**Known problem**: what is imagined hardly depends on the actions" in told
    assert "**Known problem**: it is not known to be nearer to what was recorded than a copy" in told
    assert "| `correlation` | 0.5 |" in told
    assert "least_correlation" not in told
    assert "groups" not in told
    for text in (value, dynamics):
        assert not [name for name in ("0.9 |", "7531902468", "`steps`", "frames`", "Wilson") if name in text]


def test_a_card_claims_nothing_that_was_not_measured(
    hub: Any, run_folder: Path, policy: FlowPolicy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run_folder / "model", bare)
    assert main(["push", str(bare), "lab/bare"]) == 0
    text = hub.repositories["lab/bare"].files["README.md"].decode()
    assert "nothing is claimed of its quality" in text
    assert "No record of its training" in text
    assert "model-index" not in text
    assert "license" not in metadata(text.encode())

    other = changed(policy)
    other.save_pretrained(tmp_path / "other")
    assert main(["push", str(tmp_path / "other"), "lab/other", "--results", "measured.json"]) == 2
    assert "A card tells only what its own policy reached" in capsys.readouterr().err
    (tmp_path / "empty.json").write_text("{}")
    for wrong, told in ((["--results", "empty.json"], "empty.json: this is no evaluation result: no entry"),
                        (["--dataset", "my data"], "--dataset 'my data' is no dataset of the Hub")):  # fmt: skip
        assert main(["push", str(tmp_path / "other"), "lab/other", *wrong]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "other" / "model.safetensors").write_bytes(b"damaged")
    assert main(["push", str(tmp_path / "other"), "lab/other"]) == 2
    assert "cut short or damaged" in capsys.readouterr().err
    assert "lab/other" not in hub.repositories


def test_a_licence_that_the_hub_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, told in (
        ("Apache", "unknown licence 'Apache'. Did you mean 'apache-2.0'?"),
        ("MIT", "the Hub calls it 'mit'"),
    ):
        assert main(["push", str(tmp_path), "lab/rise", "--license", given, "--dry-run"]) == 2
        assert told in capsys.readouterr().err
