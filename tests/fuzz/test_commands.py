"""Whatever is given on the command line: exit code 0, 1 or 2, no traceback, no hang, and nothing left behind.

Every command names something that does not exist, so that none goes on to work for minutes.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.cli.main import main
from tests.fuzz.fuzzing import WRONG, budget

SIZES = "--seed 0 --threads 1 --device cpu"
COMMANDS = {
    "record": "--task none --preset tiny --policy expert --episodes 1 --seed 0 --difficulty easy --out out",
    "convert": "hdf5 none.hdf5 --out out --layout piper_bimanual --fps 10 --prompt x --image-size 8 8",
    "stats": "none --task brick_sorting --preset tiny",
    "train dynamics": f"--data none --preset tiny --out out --minutes 1 {SIZES} --set dynamics.training.steps=1",
    "train value": f"--data none --preset tiny --out out --minutes 1 {SIZES}",
    "train policy": f"--data none --preset tiny --out out --steps 1 {SIZES}",
    "train bundle": f"--data none --preset tiny --out out --starts 2 --imagined 2 {SIZES}",
    "label": "none --value none --tag v1 --device cpu",
    "improve": f"--agent rise --bundle none --policy base --chunks 4 --num-envs 2 --out out {SIZES} --set batch_size=2",
    "compare": "none --out out --task brick_sorting --jobs 1",
    "ablate": "--task none --out out",
    "evaluate": f"--task brick_sorting --policy none --episodes 1 --advantage best {SIZES}",
    "deploy": "--policy none --driver cell --episodes 1 --execution smooth --seed 0",
    "serve": "--policy none --port 8000 --host 127.0.0.1 --preset tiny",
    "bench": f"none {SIZES} --quick",
    "demo": "--preset tiny --bundle none --episodes 2 --agent rise --chunks 4 --out out",
    "showcase": "--task none --out out",
}


@given(data=st.data())
@budget(4)
@pytest.mark.parametrize("name", COMMANDS)
def test_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: Any) -> None:
    words = COMMANDS[name].split()
    places = [i for i, word in enumerate(words) if not word.startswith("none")]
    values = st.one_of(st.sampled_from(WRONG).map(str), st.text(max_size=6))
    for _ in range(data.draw(st.integers(1, 2))):
        words[data.draw(st.sampled_from(places))] = data.draw(values)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        warnings.simplefilter("ignore")
        try:
            code = main([*name.split(), *words])
        except SystemExit as ended:
            code = ended.code
    assert code in (0, 1, 2), output.getvalue()
    assert "Traceback" not in output.getvalue()
    assert not list(tmp_path.iterdir())
