"""Inference beside control: chunks are computed at their own rate while targets are sent at the control rate."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_env.errors import RiseError, RobotError
from rise_robot.execution.base import ChunkExecutor, RtcConstraints
from rise_robot.execution.log import ExecutionLog
from rise_robot.safety import Stop, StopReason

__all__ = ["ChunkRunner", "DelayedInference", "Failed", "Infer", "Inference", "Inferred", "ThreadedInference"]

#: An observation without batch axis, and what the chunk must agree with; gives a chunk (chunk, D) in rad and m.
type Infer = Callable[[Mapping[str, np.ndarray], Constraints], np.ndarray]
type Observe = Callable[[], Mapping[str, np.ndarray]]
type Constraints = RtcConstraints | None


@dataclass(frozen=True)
class Inferred:
    """A chunk.

    Attributes:
        chunk: (chunk, D), rad and m, as the policy gave it: not checked.
        step: Control step of its observation.
        seconds: Time that the inference took.
    """

    chunk: np.ndarray
    step: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """An inference that gave no chunk, and why."""

    detail: str


def _infer(infer: Infer, observation: Any, step: int, constraints: Constraints) -> Inferred | Failed:
    begun = time.perf_counter()
    try:
        chunk = infer(observation, constraints)
    except Exception as error:  # noqa: BLE001  (whatever a policy does wrong, the arm has to be told to hold)
        return Failed(str(error) if isinstance(error, RiseError) else f"{type(error).__name__}: {error}")
    return Inferred(np.asarray(chunk), step, time.perf_counter() - begun)


class ThreadedInference:
    """Computes one chunk at a time in a thread of its own, for robots in real time.

    Args:
        infer: The policy; called in that thread only.
        patience: How long `forget` waits for it, s.

    Attributes:
        busy: Whether a chunk is being computed, or waits to be polled.
    """

    def __init__(self, infer: Infer, patience: float = 30.0) -> None:
        self._infer, self._patience = infer, patience
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Inferred | Failed] = queue.SimpleQueue()
        self.busy = self._void = False
        self._thread = threading.Thread(target=self._work, name="rise-inference", daemon=True)
        self._thread.start()

    def request(self, observation: Mapping[str, np.ndarray], step: int, constraints: Constraints = None) -> None:
        """Begin; only while not busy."""
        assert not self.busy
        self.busy = True
        self._requests.put((observation, step, constraints))

    def poll(self, step: int) -> Inferred | Failed | None:
        """What has been computed, once; never waits."""
        del step
        try:
            result = self._results.get_nowait()
        except queue.Empty:
            return None
        void, self.busy, self._void = self._void, False, False
        return None if void else result

    def forget(self, wait: bool = False) -> None:
        """What is being computed is of no use any more: it will not be polled.

        With `wait`, wait until the policy has finished with it and is `busy` no more; RobotError if it does not finish.
        """
        self._void = self.busy
        if wait and self.busy:
            try:
                self._results.get(timeout=self._patience)
            except queue.Empty:
                raise RobotError(
                    f"the policy has not answered for {self._patience:g} s: it hangs, or it is too slow to control with"
                ) from None
            self.busy = self._void = False

    def close(self) -> None:
        """End the thread; one that hangs in the policy is left behind and ends with the program."""
        self._requests.put(None)
        self._thread.join(2.0)

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            self._results.put(_infer(self._infer, *request))


class DelayedInference:
    """As `ThreadedInference`, for simulated time: a chunk arrives `delay_steps` control steps after its observation.

    So an episode is the same however fast the machine is.
    """

    def __init__(self, infer: Infer, delay_steps: int = 0) -> None:
        self._infer, self._delay = infer, delay_steps
        self._due: tuple[int, Inferred | Failed] | None = None

    @property
    def busy(self) -> bool:
        """Whether a chunk is on its way."""
        return self._due is not None

    def request(self, observation: Mapping[str, np.ndarray], step: int, constraints: Constraints = None) -> None:
        """Compute at once, deliver later."""
        assert self._due is None
        self._due = step + self._delay, _infer(self._infer, observation, step, constraints)

    def poll(self, step: int) -> Inferred | Failed | None:
        """The chunk, when its time has come."""
        if self._due is None or step < self._due[0]:
            return None
        (_, result), self._due = self._due, None
        return result

    def forget(self, wait: bool = False) -> None:
        """Drop what is on its way."""
        del wait
        self._due = None

    def close(self) -> None:
        """Nothing to end."""


type Inference = ThreadedInference | DelayedInference


class ChunkRunner:
    """Asks for chunks when the executor wants them, merges them when they arrive, and says what to send.

    A policy that fails or is late does not stop the arm at once: what is planned is played first; then the arm holds,
    and a failed policy, or one that keeps it waiting for longer than `late`, ends the episode with a `Stop`.

    Args:
        executor: Strategy.
        inference: Where chunks are computed.
        check: What a chunk must pass before it is merged: `SafetyGuard.check_chunk` of its shape.
        late: Longest time that the arm may wait, s.
        log: Where merges are written down.
    """

    def __init__(
        self,
        executor: ChunkExecutor,
        inference: Inference,
        check: Callable[[np.ndarray], Stop | None],
        late: float,
        log: ExecutionLog | None = None,
    ) -> None:
        self.executor, self.inference, self.log = executor, inference, log or ExecutionLog()
        self._check, self._late = check, late
        self._failed: str | None = None
        self._waiting_since: float | None = None

    def reset(self, wait: bool = False) -> None:
        """An episode begins, or somebody else has moved the robot: all plans are void. `wait` as in
        `ThreadedInference.forget`.
        """
        self.inference.forget(wait)
        self.executor.reset()
        self._failed = self._waiting_since = None

    def target(self, observe: Observe, step: int, now: float) -> np.ndarray | Stop | None:
        """What to send at a control step; once per step.

        Args:
            observe: Gives the present observation; called only where a chunk is asked for.
            step: The control step.
            now: The driver's clock, s.

        Returns:
            Joint targets (D,), None to hold, or why the episode must end.
        """
        if (stop := self._merge(step)) is not None:
            return stop
        if self._failed is None and not self.inference.busy and self.executor.wants(step):
            self.inference.request(observe(), step, self.executor.request(step))
            if (stop := self._merge(step)) is not None:  # it may be there at once
                return stop
        target = self.executor.next(step)
        if target is not None:
            self._waiting_since = None
            return target
        self.log.held_steps += 1
        if self._failed is not None:
            detail = f"the policy failed, and all it had planned is played: {self._failed}"
            return Stop(StopReason.POLICY_FAILED, detail)
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        if now - self._waiting_since >= self._late:
            detail = f"the arm has waited {now - self._waiting_since:.2f} s for a chunk, {self._late} s are allowed"
            return Stop(StopReason.POLICY_LATE, detail)
        return None

    def close(self) -> None:
        """End the inference."""
        self.inference.close()

    def _merge(self, step: int) -> Stop | None:
        result = self.inference.poll(step)
        if result is None:
            return None
        if isinstance(result, Failed):
            self._failed = result.detail
            return None
        if (stop := self._check(result.chunk)) is not None:
            return stop
        self.log.merged(self.executor.add(result.chunk, result.step, step), result.seconds)
        return None
