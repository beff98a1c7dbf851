"""Forks of a process that has computed with several threads."""

from __future__ import annotations

import subprocess
import sys

FORK = """
import multiprocessing, torch, rise_env.world_model
from rise_env.threads import forked

def compute():
    return float((torch.ones(1 << 22) * 2).sum())

def child(pipe):
    pipe.send((forked(), torch.get_num_threads(), compute()))

torch.set_num_threads(2)
compute()  # from now on there are threads, which a fork does not have
receiver, sender = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=child, args=(sender,))
process.start()
print(receiver.recv() if receiver.poll(60) else "it hangs", forked())
process.kill()
"""


def test_a_fork_computes_with_one_thread_instead_of_waiting_for_those_of_its_parent() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=280)
    assert done.stdout.strip() == "(True, 1, 8388608.0) False", done.stderr
