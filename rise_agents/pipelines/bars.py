"""Progress bars of trainings."""

from __future__ import annotations

from typing import Any

from rise_agents.pipelines.progress import bar, say

__all__ = ["Bars"]


class Bars:
    """One progress bar at a time: decoding, then each phase of training in thousandths of its budget."""

    _SHOWN = (
        "loss", "progress", "td", "spread", "latent_mse", "latent_mse_copy", "psnr_end", "psnr_end_copy",
        "sample_error", "success",
    )  # fmt: skip

    def __init__(self) -> None:
        self._bar: Any = None
        self._name = ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def decoding(self, done: int, total: int) -> None:
        """Show how far videos are decoded."""
        self._show("decoding", done, total, "frames")

    def training(self, progress: Any) -> None:
        """Show how far training is."""
        if progress.resumed:
            say(f"{progress.phase}: resuming at update {progress.step}")
        self._show(progress.phase, round(1000 * progress.used), 1000, "‰")
        metrics = {name: f"{progress.metrics[name]:.3g}" for name in self._SHOWN if name in progress.metrics}
        self._bar.set_postfix({"step": progress.step, **metrics}, refresh=False)

    def _show(self, name: str, done: int, total: int, unit: str) -> None:
        if name != self._name:
            self._close()
            self._bar, self._name = bar(total, name, unit, initial=done), name
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""
