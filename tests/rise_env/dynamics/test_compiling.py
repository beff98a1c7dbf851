"""torch.compile in imagination: the same numbers, announced, and done without where it fails."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings
from typing import Any

import pytest
import torch
from dynamics_world import CONFIG, SPEC

from rise_env.dynamics.compiling import Compiler
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.shape import DynamicsShape
from rise_env.errors import ConfigError
from rise_env.protocols import History

SHAPE = DynamicsShape.of(SPEC)


def imagined(model: LatentDynamics, batch: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    frames = torch.randint(0, 256, (batch, 3, 2, 16, 20, 3), dtype=torch.uint8, generator=g)
    history = History(frames, torch.zeros(batch, 3, 2), ["Move."] * batch)
    noise = [torch.Generator().manual_seed(seed) for seed in range(batch)]
    prediction, _ = model.predict(model.open(history), torch.full((batch, 4, 2), 0.3), noise)
    model.decode(prediction, [0])
    assert prediction.latents is not None
    return prediction.latents


@pytest.fixture(scope="module")
def model() -> LatentDynamics:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, transformer=dataclasses.replace(CONFIG.transformer, depth=1))
    return LatentDynamics(config, SHAPE).eval()


def test_the_same_numbers_and_it_says_what_it_does(model: LatentDynamics, capsys: pytest.CaptureFixture[str]) -> None:
    expected = imagined(model, 2)
    assert capsys.readouterr().err == ""
    compiled = model.with_settings({"compile": True, "compile_backend": "eager"})
    assert (compiled.thread_safe, model.thread_safe) == (False, True)
    torch.testing.assert_close(imagined(compiled, 2), expected, rtol=1e-5, atol=1e-5)
    told = capsys.readouterr().err
    for part in ("LatentTransformer", "ImageEncoder", "ImageDecoder"):
        assert f"compiling {part} for a batch of" in told
        assert f"{part}: ready after" in told
    off = compiled.with_settings({"compile": False})
    assert torch.equal(imagined(off, 2), expected)
    assert capsys.readouterr().err == ""


def test_other_batch_sizes_are_told_of_where_they_take_time(capsys: pytest.CaptureFixture[str]) -> None:
    layer, compiler = torch.nn.Linear(2, 3), Compiler("eager")
    for size in (4, 5, 4, 6, 1):  # 6 is computed by what was compiled for 5
        torch.testing.assert_close(compiler(layer, torch.ones(size, 2)), layer(torch.ones(size, 2)))
    told = capsys.readouterr().err
    assert [f"batch of {size} " in told for size in (4, 5, 6, 1)] == [True, True, False, True]
    assert told.count("compiling Linear") == 3


def test_without_a_compiler_it_goes_on_and_says_why(model: LatentDynamics) -> None:
    def no_compiler(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler found\nmore")

    torch._dynamo.register_backend(no_compiler, name="rise_test_no_compiler")  # type: ignore[attr-defined]
    broken = model.with_settings({"compile": True, "compile_backend": "rise_test_no_compiler"})
    with pytest.warns(UserWarning, match=r"LatentTransformer could not be compiled.*no C\+\+ compiler found") as caught:
        first = imagined(broken, 2)
    assert len({str(one.message).split()[0] for one in caught}) == 3  # and the two coders
    assert torch.equal(first, imagined(model, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        imagined(broken, 2)


def test_what_is_wrong_with_the_call_itself_is_no_compilers_fault(recwarn: pytest.WarningsRecorder) -> None:
    layer = torch.nn.Linear(2, 3)
    compiler = Compiler("eager")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiler(layer, torch.zeros(4, 5))
    assert compiler(layer, torch.zeros(4, 2)).shape == (4, 3)
    assert not [one for one in recwarn if "could not be compiled" in str(one.message)]


def test_copies_compile_anew_for_their_own_weights() -> None:
    layer, compiler = torch.nn.Linear(2, 2), Compiler("eager")
    compiler(layer, torch.ones(1, 2))
    for other in (copy.deepcopy(compiler), pickle.loads(pickle.dumps(compiler))):
        assert other.backend == "eager"
        assert not other._parts
    with pytest.raises(ConfigError, match=r"unknown backend of torch\.compile 'inducter'.*Did you mean 'inductor'"):
        Compiler("inducter")
