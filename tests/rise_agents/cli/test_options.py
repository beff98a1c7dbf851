"""What commands accept: wrong numbers and paths are told before anything runs."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest

from rise_agents.cli import options
from rise_agents.cli.main import COMMANDS, main
from rise_env.bundle import find_bundle
from rise_robot.cell.config import load_cell
from rise_robot.cell.task import make_cell_task


def test_numbers_have_a_least_value() -> None:
    assert options.at_least(3)("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="2 is less than 3"):
        options.at_least(3)("2")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert options.folder(str(tmp_path)) == tmp_path
    assert options.folder(str(tmp_path / "new")) == tmp_path / "new"
    (tmp_path / "file").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="is not a directory"):
        options.folder(str(tmp_path / "file"))
    for kind in (options.folder, options.new_file):
        with pytest.raises(argparse.ArgumentTypeError, match="file is not a directory"):
            kind(str(tmp_path / "file" / "below" / "it"))
    with pytest.raises(argparse.ArgumentTypeError, match="is a directory"):
        options.new_file(str(tmp_path))
    for fine in (tmp_path / "new" / "file", tmp_path / "file", Path("/dev/stdout")):
        assert options.new_file(str(fine)) == fine


def test_of_a_run_folder_the_model_is_meant(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert options.model(str(tmp_path)) == tmp_path
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert options.model(str(tmp_path)) == tmp_path / "model"


def test_the_cell_of_a_task() -> None:
    assert options.cell_of("brick-sorting") == "RISE-BrickSorting-Cell-v0"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("evaluate --policy expert --seed -1", "-1 is less than 0"),
        ("evaluate --policy expert --num-envs 0", "0 is less than 1"),
        ("evaluate --policy expert --task brick_sorting --env RISE-BrickSorting-Cell-v0", "not allowed with"),
        ("serve --policy base --max-megabytes nan", "nan is not a finite number"),
        ("deploy --policy base --guidance inf", "inf is not a finite number"),
        ("record --out here --seed -1", "-1 is less than 0"),
        ("record --out FILE", "is not a directory"),
        ("improve --out FILE", "is not a directory"),
        ("improve --out here --seed -1", "-1 is less than 0"),
        ("improve --out here --audit -3", "-3 is less than 0"),
        ("demo --out FILE", "is not a directory"),
        ("train policy --data d --plain --out here --threads 0", "0 is less than 1"),
        ("bench cell --seed -1", "-1 is less than 0"),
        ("play --port 65536", "'65536' is no port, expected 0 (any free one) to 65535"),
    ],
)
def test_wrong_arguments_are_usage_errors(
    command: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(command.replace("FILE", str(tmp_path / "file")).split())
    assert exit_.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("evaluate --policy expert --task brick_sort", "Did you mean 'brick_sorting'?"),
        ("evaluate --policy expert --task hanging", "task 'hanging' has no work cell"),
        ("evaluate --policy base --judge oracle", "--proposals and --judge are of --best-of N"),
        ("evaluate --policy base --best-of 2 --proposals sideways", "proposals ['sideways'] are unknown; there are"),
        ("train base --set cell.difficulty=hard --out OUT", "recordings and evaluation follow the preset"),
        ("record --policy expert --explore warp --out OUT", "expert is no trained policy; leave --explore out"),
        ("improve --env RISE-BrickSorting-Cell-v0 --out OUT", "RISE-BrickSorting-Cell-v0 is no imagination; --oracle"),
        ("improve --agent ries --out OUT", "unknown algorithm 'ries'. Did you mean 'rise'?"),
        ("improve --task brick_sortin --out OUT", "Did you mean 'brick_sorting'?"),
        ("improve --labels v1 --out OUT", "--labels are of the recordings of --data, and there are none"),
        ("play --bundle BUNDLE --task box_closing", "is of task 'brick_sorting', not of 'box_closing'"),
    ],
)
@pytest.mark.usefixtures("hanging")
def test_what_does_not_fit_is_told(command: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(find_bundle("brick_sorting"))
    assert main(command.replace("OUT", str(tmp_path)).replace("BUNDLE", bundle).split()) == 2
    assert told in capsys.readouterr().err


def test_the_help_names_the_operators_of_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("evaluate", "record"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        lines = capsys.readouterr().out.splitlines()
        for task in ("brick_sorting", "backpack_packing", "box_closing"):
            listed = next(line for line in lines if line.split()[:1] == [task]).split(maxsplit=1)[1].split(", ")
            policies = make_cell_task(task, load_cell(task)[1].ranges).scripted_policies
            assert tuple(f"operator-{kind}" for kind in listed) == policies[2:-1]


def test_every_command_declares_its_arguments() -> None:
    for command in COMMANDS.values():
        importlib.import_module(command.module).add_arguments(argparse.ArgumentParser())
