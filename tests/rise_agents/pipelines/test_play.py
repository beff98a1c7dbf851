"""Playing with imagination: the session without a browser, and its page once in a real one."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image

from rise_agents.cli.main import main
from rise_agents.pipelines.play import PlaySession, acting_policy
from rise_agents.pipelines.play_cell import TrueCell, cell_beside
from rise_env.bundle import Bundle, load_bundle, save_bundle
from rise_env.errors import ActionError, ConfigError, RiseError
from rise_env.testing import counting_starts, counting_world_model


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Bundle:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def cell(loaded: Bundle) -> TrueCell:
    found = cell_beside(loaded.spec)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def shared(loaded: Bundle, cell: TrueCell, policy: Path) -> PlaySession:
    return PlaySession(loaded, cell, acting_policy(str(policy), loaded), seed=3)


@pytest.fixture
def session(shared: PlaySession) -> PlaySession:
    return shared.fresh()


def test_imagination_is_the_environments(session: PlaySession, loaded: Bundle) -> None:
    """The same start and chunks give what the environment gives, but for the noise (blue)."""
    envs: Any = gymnasium.make_vec("RISE-Imagination-v0", bundle=str(loaded.path))
    observation, _ = envs.reset(seed=0, options={"start_index": 5})
    session.begin(5)
    assert session.chunks == ("policy", "recorded", "random")
    np.testing.assert_array_equal(session.propose("recorded"), envs.unwrapped.recorded_actions()[0][0])
    for _ in range(2):
        np.testing.assert_array_equal(session.present.frames[0, ..., :2], observation["image_head"][0, ..., :2])
        np.testing.assert_array_equal(session.present.state, observation["state"][0])
        chunk = session.propose("policy")
        moments = session.step(chunk, "policy")
        observation, *_ = envs.step(chunk[None])
        assert len(moments) == session.spec.frames_per_chunk
        commanded = chunk[session.spec.stride - 1 :: session.spec.stride]
        np.testing.assert_array_equal([one.state for one in moments], commanded)
        assert session.chunks == ("policy", "random")
    fps, stride = session.spec.fps, session.spec.stride
    assert [one.seconds for one in session.moments] == [
        pytest.approx(k * stride / fps) for k in range(len(session.moments))
    ]
    assert {one.source for one in session.moments[1:]} == {"policy"}
    assert session.present.true_frames is None


class Watching:
    """A policy that keeps what it sees."""

    lags = (2,)

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        del seeds, mask

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        self.seen = dict(observations)
        return np.full((1, 8, 14), 0.1, np.float32)


def test_the_policy_sees_what_it_does_in_the_environment(loaded: Bundle) -> None:
    envs: Any = gymnasium.make_vec("RISE-Imagination-v0", bundle=str(loaded.path), observation_lags=[2])
    observation, _ = envs.reset(seed=0, options={"start_index": 5})
    watching = Watching()
    session = PlaySession(loaded, policy=watching)
    session.begin(5)
    for _ in range(2):
        chunk = session.propose("policy")
        assert watching.seen.keys() == observation.keys()
        for name, found in watching.seen.items():
            np.testing.assert_array_equal(found[..., :2], observation[name][..., :2], name)  # without the noise
        session.step(chunk, "policy")
        observation, *_ = envs.step(chunk[None])


def test_steps_go_on_from_what_was_imagined_and_are_taken_back(session: PlaySession) -> None:
    session.begin(2)
    first = session.step(session.propose("recorded"), "recorded")
    chunk = session.propose("random")
    second = session.step(chunk, "random")
    reds = [int(one.frames[0, 0, 0, 0]) for one in (*first, *second)]
    assert np.diff(reds).tolist() == [session.spec.stride] * (len(reds) - 1)
    session.back()
    assert session.moments[1:] == first
    again = session.step(chunk, "random")
    assert [one.value for one in again] == [one.value for one in second]
    np.testing.assert_array_equal(again[-1].frames, second[-1].frames)
    for _ in range(3):
        session.back()
    assert len(session.moments) == 1
    assert "recorded" in session.chunks


def test_sliders_move_evenly_and_stay_within_the_limits(session: PlaySession) -> None:
    session.begin(0)
    layout, present = session.spec.layout, session.present.state
    chunk = session.towards(layout.high)
    moved = np.diff(chunk, axis=0, prepend=present[None])
    np.testing.assert_allclose(moved, np.broadcast_to((layout.high - present) / len(chunk), moved.shape), atol=1e-5)
    np.testing.assert_allclose(chunk[-1], layout.high, atol=1e-6)
    beyond = session.step(chunk + 10, "sliders")
    assert layout.furthest_outside(beyond[-1].state) is None
    with pytest.raises(ActionError, match="shape"):
        session.step(chunk[:-1], "sliders")
    with pytest.raises(ActionError, match="finite"):
        session.step(np.full_like(chunk, np.nan), "sliders")
    assert len(session.moments) == 1 + len(beyond)


def test_the_cell_beside_runs_the_same_chunk(session: PlaySession) -> None:
    spec = session.spec
    env: Any = gymnasium.make("RISE-BrickSorting-Cell-v0", preset="tiny", execute=spec.chunk)
    observation, _ = env.reset(seed=11)
    session.begin_in_cell(11, steps=0)
    np.testing.assert_array_equal(session.present.true_frames[0], observation["image_head"])
    np.testing.assert_array_equal(session.present.frames, session.present.true_frames)
    assert session.chunks == ("policy", "expert", "random")
    for _ in range(2):
        chunk = session.propose("expert")
        np.testing.assert_allclose(chunk, env.unwrapped.scripted_chunk("expert"), atol=1e-6)
        session.step(chunk, "expert")
        observation, _, _, _, info = env.step(chunk)
        np.testing.assert_array_equal(session.present.true_frames[0], observation["image_head"])
    assert session.present.true_progress == pytest.approx(info["progress"])
    scored = session.model.score_frames(_tensor(session.present.true_frames[None, None]), [spec.prompt])
    assert session.present.true_value == pytest.approx(float(scored.value), abs=1e-5)
    env.close()
    session.begin_in_cell(11, "operator", steps=3)
    assert not np.array_equal(session.present.state, observation["state"])
    session.begin(1)
    assert "expert" not in session.chunks
    with pytest.raises(ConfigError, match="unknown chunk 'expert'"):
        session.propose("expert")


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def test_without_a_cell(tmp_path: Path, hanging: str) -> None:
    """A task that is known from recordings, and one that is registered for its imagination alone."""
    bundle = save_bundle(tmp_path / "counting", counting_starts(), counting_world_model())
    assert cell_beside(bundle.spec) is None
    assert cell_beside(replace(bundle.spec, name=hanging)) is None
    session = PlaySession(bundle, policy=acting_policy(None, bundle))
    with pytest.raises(RiseError, match="begin somewhere"):
        session.propose("random")
    with pytest.raises(ConfigError, match="no start state has start_index 99"):
        session.begin(99)
    with pytest.raises(ConfigError, match="no work cell"):
        session.begin_in_cell(0)
    session.begin(0)
    assert session.chunks == ("recorded", "random")
    assert session.step(session.propose("random"), "random")[-1].true_progress is None
    assert session.describe(0) == "episode 0, frame 40, failed, train: Count the frames."


def test_a_policy_of_another_task_is_refused(policy: Path, tmp_path: Path) -> None:
    bundle = save_bundle(tmp_path / "counting", counting_starts(), counting_world_model())
    with pytest.raises(ConfigError, match="they are of different tasks"):
        acting_policy(str(policy), bundle)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    monkeypatch.delitem(sys.modules, "rise_agents.pipelines.play_page", raising=False)
    assert main(["play"]) == 2
    assert "rise-robotics[web]" in capsys.readouterr().err


class Browser:
    """A headless Chromium, through its DevTools protocol."""

    def __init__(self, program: str, home: Path) -> None:
        from websockets.sync.client import connect

        options = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run",
                   f"user-data-dir={home}", "remote-debugging-port=0")  # fmt: skip
        command = [program, *(f"--{option}" for option in options), "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._open = ExitStack()
        try:
            file = home / "DevToolsActivePort"
            self._until(lambda: file.is_file() and file.read_text().strip())
            address = f"http://127.0.0.1:{file.read_text().split()[0]}/json"
            pages = self._until(
                lambda: [one for one in json.load(urllib.request.urlopen(address)) if one["type"] == "page"]
            )
            self._link = self._open.enter_context(connect(pages[0]["webSocketDebuggerUrl"], max_size=None))
            self._numbers = itertools.count(1)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _until(found: Any) -> Any:
        for _ in range(600):
            if result := found():
                return result
            time.sleep(0.1)
        raise TimeoutError

    def call(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._link.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._link.recv(timeout=120))).get("id") != number:
            pass
        return answer["result"]

    def ask(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        return self._until(lambda: self.ask(expression))

    def close(self) -> None:
        self._open.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium (chromium, chromium-browser or google-chrome); on Debian: apt-get install chromium")
    found = Browser(program, tmp_path / "home")
    yield found
    found.close()


def _picture(browser: Browser, title: str) -> np.ndarray:
    source = browser.ask(f"document.querySelector('img[alt=\"{title}\"]').src")
    return np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


class SameThread(Executor):
    """Works at once: rendering belongs to the thread in which the other tests render."""

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except RiseError as error:
            done.set_exception(error)
        return done


@pytest.mark.slow
def test_the_page_in_a_real_browser(browser: Browser, shared: PlaySession) -> None:
    """The server runs in this thread and the visitor in another; what it should see is imagined here beforehand."""
    page = pytest.importorskip("rise_agents.pipelines.play_page", reason="NiceGUI is missing: the extra web")
    ours = shared.fresh()
    ours.begin_in_cell(0, "expert", 10)
    ours.step(ours.propose("expert"), "expert")
    end = ours.present
    assert end.true_frames is not None
    server, listening = page.make_server(shared, SameThread()), page.listen(0)
    host, port = listening.getsockname()
    assert host == "127.0.0.1"
    with pytest.raises(ConfigError, match=rf"port {port}: Address already in use. Give another \(--port"):
        page.listen(port)
    address = f"http://{host}:{port}"

    def visit() -> None:
        try:
            browser.call("Page.navigate", url=address)
            texts = "[...document.querySelectorAll('div')].map(e => e.textContent)"
            told = texts + ".findLast(t => /^[0-9.]+ s, /.test(t)) || ''"
            browser.wait_for(f"({told}).startsWith('0.0 s, start')")
            browser.ask(
                "[...document.querySelectorAll('button')].find(e => e.textContent.startsWith('expert')).click()"
            )
            browser.wait_for(f"({told}).startsWith('{end.seconds:.1f} s, expert: value {end.value:.2f}')")
            for title, frames in (("imagined", end.frames), ("work cell", end.true_frames)):
                np.testing.assert_array_equal(_picture(browser, title), np.concatenate(list(frames), axis=1))
            press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', code: '%s', bubbles: true}))"
            browser.ask(press % ("Backspace", "Backspace"))
            browser.wait_for(f"({told}).startsWith('0.0 s, start')")
            browser.ask(press % ("p", "KeyP"))
            browser.wait_for(f"({told}).includes(' s, policy: ')")
            assert browser.ask("document.querySelectorAll('canvas').length") == 2
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "elsewhere.example"}))
        finally:
            server.should_exit = True

    with ThreadPoolExecutor(1) as other:
        visitor = other.submit(visit)
        page.serve(server, listening)
        visitor.result()
