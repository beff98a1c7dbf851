"""The page of `rise play`: pictures, curves, buttons and sliders around a `PlaySession`, on loopback alone."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from fastapi import FastAPI
from nicegui import ui
from nicegui.events import KeyEventArguments
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rise_agents.pipelines.play import Moment, PlaySession
from rise_env.errors import ConfigError, RiseError

__all__ = ["PlayPage", "listen", "make_server", "serve"]

_HOST = "127.0.0.1"
#: Key to chunk, as on the buttons.
_KEYS = {"p": "policy", "e": "expert", "c": "recorded", "r": "random"}
#: What a press of an arrow key moves a joint by, as a share of its range.
_NUDGE = 0.02
_COLOURS = {"imagined": "#2563eb", "true pictures": "#ea580c", "ground truth": "#16a34a",
            "chunk": "#7c3aed", "ensemble spread": "#9ca3af"}  # fmt: skip


class _Pictures(NamedTuple):
    """Cameras side by side, and what is shown or hidden with their title."""

    box: ui.element
    picture: ui.element


class PlayPage:
    """What one visitor sees.

    Args:
        session: Session of the visitor's own.
        worker: Executor of one thread, in which sessions are used: rendering belongs to a thread.
    """

    def __init__(self, session: PlaySession, worker: Executor) -> None:
        self._session, self._worker, self._spec = session, worker, session.spec
        self._shown, self._joint, self._busy = 0, 0, False
        self._sliders: list[ui.slider] = []
        self._buttons: dict[str, ui.button] = {}

    def build(self) -> None:
        """Lay the page out, and begin."""
        spec, layout = self._spec, self._spec.layout
        ui.add_css(
            ".frames { image-rendering: pixelated; display: block; width: 100%; max-height: 16rem; "
            "object-fit: contain; object-position: left }"
        )
        with ui.column().classes("w-full max-w-screen-xl mx-auto gap-2"):
            ui.label(f"{spec.name}: {spec.prompt}").classes("text-lg")
            with ui.row().classes("w-full no-wrap gap-6 items-start"):
                with ui.column().classes("gap-2").style("flex: 0 0 22rem"):
                    self._build_starts()
                    with ui.row().classes("gap-2"):
                        for key, name in _KEYS.items():
                            text = f"{name} ({key})"
                            self._buttons[name] = ui.button(text, on_click=lambda n=name: self._choose(n))
                            self._buttons[name].props("dense no-caps").mark(name)
                        back = ui.button("back (Backspace)", on_click=self._back).props("dense no-caps outline")
                        back.mark("back")
                    ui.label("Or move the joints, and let the chunk go there (Enter):").classes("text-sm")
                    for i, name in enumerate(layout.names):
                        with ui.row().classes("w-full no-wrap items-center gap-2"):
                            unit = "" if layout.units[i] == "none" else f", {layout.units[i]}"
                            ui.label(name + unit).classes("text-xs").style("flex: 0 0 9rem")
                            low, high = layout.lower[i], layout.upper[i]
                            slider = ui.slider(min=low, max=high, step=(high - low) / 500, value=low)
                            self._sliders.append(slider.props("label dense").classes("grow"))
                    ui.button("move there (Enter)", on_click=self._move).props("dense no-caps").mark("move")
                    ui.label("Arrow keys: up and down choose a joint, left and right move it.").classes("text-xs")
                with ui.column().classes("grow gap-1"):
                    self._imagined, self._true = self._build_pictures("imagined"), self._build_pictures("work cell")
                    with ui.row().classes("w-full no-wrap items-center"):
                        self._time = ui.slider(min=0, max=1, step=1, value=0, on_change=self._look).classes("grow")
                        self._caption = ui.label().classes("text-sm").style("flex: 0 0 17rem").mark("caption")
                    curves = ("imagined", *(() if self._session.cell is None else ("true pictures", "ground truth")))
                    self._value = ui.echart(_chart("value", curves, 1.0))
                    self._uncertainty = ui.echart(_chart("uncertainty", ("chunk", "ensemble spread")))
                    for chart in (self._value, self._uncertainty):
                        chart.classes("w-full h-44")
        ui.keyboard(on_key=self._key, ignore=["input", "textarea"])
        self._film = ui.timer(spec.stride / spec.fps, self._next_frame, active=False)
        ui.timer(0, self._begin, once=True)

    # ------------------------------------------------------------------ parts

    def _build_starts(self) -> None:
        session = self._session
        with ui.card().classes("w-full p-3 gap-1"):
            ui.label("Begin").classes("font-bold")
            with ui.row().classes("items-center gap-2 no-wrap"):
                self._row = ui.number("recorded state", value=0, min=0, max=len(session.starts) - 1, precision=0)
                self._row.classes("w-28").props("dense")
                ui.button("begin", on_click=self._begin_recorded).props("dense no-caps").mark("begin recorded")
            self._start = ui.label().classes("text-xs")
            if session.cell is None:
                ui.label("No work cell for this task: imagined only.").classes("text-xs")
                return
            with ui.row().classes("items-center gap-2 no-wrap"):
                self._seed = ui.number("cell, seed", value=0, min=0, precision=0).classes("w-20").props("dense")
                self._lead = ui.select(list(session.cell.scripted), value="expert", label="led by").props("dense")
                self._steps = ui.number("steps", value=10, min=0, precision=0).classes("w-16").props("dense")
                ui.button("begin", on_click=self._begin_in_cell).props("dense no-caps").mark("begin in cell")

    def _build_pictures(self, title: str) -> _Pictures:
        with ui.column().classes("w-full gap-0") as box:
            ui.label(f"{title}: {', '.join(self._spec.cameras)}").classes("text-xs")
            picture = ui.element("img").classes("frames").mark(f"frames {title}")
            picture.props(f'alt="{title}"')
        return _Pictures(box, picture)

    # ------------------------------------------------------------------ what a visitor does

    async def _begin(self) -> None:
        await (self._begin_recorded() if self._session.cell is None else self._begin_in_cell())

    async def _begin_recorded(self) -> None:
        row = int(self._row.value or 0)
        await self._do(lambda: self._session.begin(row))
        self._start.text = self._session.describe(min(row, len(self._session.starts) - 1))

    async def _begin_in_cell(self) -> None:
        seed, policy, steps = int(self._seed.value or 0), str(self._lead.value), int(self._steps.value or 0)
        await self._do(lambda: self._session.begin_in_cell(seed, policy, steps))

    async def _choose(self, name: str) -> None:
        await self._do(lambda: self._session.step(self._session.propose(name), name))

    async def _move(self) -> None:
        target = np.array([slider.value for slider in self._sliders], np.float32)
        await self._do(lambda: self._session.step(self._session.towards(target), "sliders"))

    async def _back(self) -> None:
        await self._do(self._session.back)

    async def _key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta:
            return
        key, layout = event.key.name, self._spec.layout
        if key in ("ArrowUp", "ArrowDown"):
            self._joint = (self._joint + (1 if key == "ArrowDown" else -1)) % layout.dim
            ui.notify(f"joint: {layout.names[self._joint]}", timeout=500)
        elif key in ("ArrowLeft", "ArrowRight"):
            low, high = layout.lower[self._joint], layout.upper[self._joint]
            change = _NUDGE * (high - low) * (1 if key == "ArrowRight" else -1)
            slider = self._sliders[self._joint]
            slider.value = float(np.clip(slider.value + change, low, high))
        elif event.action.repeat:
            return
        elif key == "Enter":
            await self._move()
        elif key == "Backspace":
            await self._back()
        elif key in _KEYS:
            await self._choose(_KEYS[key])

    async def _do(self, work: Callable[[], object]) -> None:
        """Work in the worker's thread, then show what came of it; clicks meanwhile are ignored."""
        if self._busy:
            return
        self._busy = True
        for button in self._buttons.values():
            button.disable()
        begun = len(self._session.moments) if self._session.begun else 0
        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except RiseError as error:
            ui.notify(str(error), type="negative", multi_line=True, close_button=True)
        finally:
            self._busy = False
        if self._session.begun:
            self._refresh(begun)

    # ------------------------------------------------------------------ what is shown

    def _refresh(self, begun: int) -> None:
        """Show the moments from the number `begun` on."""
        session, moments = self._session, self._session.moments
        for name, button in self._buttons.items():
            button.set_enabled(name in session.chunks)
        for slider, value in zip(self._sliders, session.present.state.tolist(), strict=True):
            slider.value = value
        self._time.props["max"] = max(1, len(moments) - 1)
        self._time.update()
        for chart, lines in ((self._value, _values(moments)), (self._uncertainty, _uncertainties(moments))):
            for series, line in zip(chart.options["series"], lines, strict=False):  # without a cell there is one
                series["data"] = line
            chart.update()
        further = 0 < begun < len(moments)
        self._show(begun if further else len(moments) - 1)
        self._film.active = further

    def _next_frame(self) -> None:
        if self._shown >= len(self._session.moments) - 1:
            self._film.active = False
        else:
            self._show(self._shown + 1)

    def _look(self) -> None:
        if self._session.begun and int(self._time.value) != self._shown:
            self._film.active = False
            self._show(int(self._time.value))

    def _show(self, number: int) -> None:
        moments = self._session.moments
        self._shown = min(number, len(moments) - 1)
        moment = moments[self._shown]
        self._time.value = self._shown
        for (box, picture), frames in ((self._imagined, moment.frames), (self._true, moment.true_frames)):
            box.set_visibility(frames is not None)
            if frames is not None:
                picture.props["src"] = data_url(frames)
                picture.update()
        truth = "" if moment.true_progress is None else f", true progress {moment.true_progress:.2f}"
        self._caption.text = f"{moment.seconds:.1f} s, {moment.source}: value {moment.value:.2f}{truth}"


def listen(port: int) -> socket.socket:
    """A socket on loopback that listens: who comes before the server runs waits for it.

    Args:
        port: Port; 0 takes a free one.

    Raises:
        ConfigError: If the port cannot be had.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOST, port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"port {port}: {error.strerror}. Give another (--port; 0: any free one)") from error
    listening.listen()
    return listening


def make_server(session: PlaySession, worker: Executor) -> uvicorn.Server:
    """A server of the page, for `serve`.

    Args:
        session: What every visitor gets a fresh copy of.
        worker: As of `PlayPage`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Another site, whose name is made to point here, gets nothing.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"])
    ui.run_with(
        app, root=lambda: PlayPage(session.fresh(), worker).build(), title=f"rise play: {session.spec.name}",
        show_welcome_message=False,
    )  # fmt: skip
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))


def serve(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve until somebody tells the server to stop, or interrupts it."""
    with warnings.catch_warnings():
        # NiceGUI looks at every object of the process, torch's deprecated ones as well.
        warnings.filterwarnings("ignore", "`torch.distributed.reduce_op`", FutureWarning)
        server.run(sockets=[listening])


def data_url(frames: np.ndarray) -> str:
    """Views uint8 (V, H, W, 3) side by side, as the address of a PNG."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _values(moments: Sequence[Moment]) -> list[list[list[float]]]:
    lines = [[[one.seconds, one.value] for one in moments]]
    for name in ("true_value", "true_progress"):
        found = ((one.seconds, getattr(one, name)) for one in moments)
        lines.append([[seconds, value] for seconds, value in found if value is not None])
    return lines


def _uncertainties(moments: Sequence[Moment]) -> list[list[list[float]]]:
    return [[[one.seconds, one.uncertainty] for one in moments[1:]], [[one.seconds, one.spread] for one in moments]]


def _chart(title: str, names: Sequence[str], high: float | None = None) -> dict[str, Any]:
    """Options of an Apache ECharts line chart over time."""
    return {
        "animation": False,
        "title": {"text": title, "left": 0, "textStyle": {"fontSize": 12}},
        "legend": {"top": 0, "right": 0},
        "grid": {"left": 45, "right": 15, "top": 36, "bottom": 25},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "axisLabel": {"formatter": "{value} s"}},
        "yAxis": {"type": "value", "min": 0, **({} if high is None else {"max": high})},
        "series": [
            {"type": "line", "name": name, "data": [], "symbolSize": 4, "color": _COLOURS[name]} for name in names
        ],
    }
