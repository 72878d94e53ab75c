"""Interrupts loads again and again, at random times, with real signals.

    python -m tests.transfer.interrupted_loads SEEDS

After each load none of its threads may be left, and nothing may be written any more. Prints how
many loads were interrupted. Run by test_interrupted_loads.py, since it sends signals to itself.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from tests.files import make_file, random_tensor
from tests.transfer.test_engine import ScriptedSource

import libtz
import libtz.torch
from libtz import opening
from libtz.options import ReadOptions

MIB = 1 << 20
COUNT = 12
FILE = make_file({f"{i:02}": random_tensor("u8", (MIB,), i) for i in range(COUNT)})
QUIET = ReadOptions(progress=False, request_size_max=MIB, host_memory_max=16 * MIB)
PIECE_S = 0.002

inside: Callable[..., Any]


def interrupt(number: int, frame: FrameType | None) -> None:
    """Like Ctrl-C, but only inside the load."""
    while frame is not None:
        if frame.f_code is inside.__code__:
            raise KeyboardInterrupt
        frame = frame.f_back


def send(chance: random.Random) -> None:
    time.sleep(chance.uniform(0, 0.03))
    for _ in range(chance.randrange(1, 5)):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(chance.choice([0, 0, 0.00002, 0.0002, 0.002, 0.01]))


def load_model(source: Any, module: torch.nn.Module) -> None:
    libtz.torch.load_model(module, source, options=QUIET)


def load(source: Any, module: torch.nn.Module) -> None:
    libtz.torch.load_file(source, options=QUIET)


def slices(source: Any, module: torch.nn.Module) -> None:
    with libtz.open(source, options=QUIET) as file:
        file.load_slices([(name, slice(1, None)) for name in file])


def iterate(source: Any, module: torch.nn.Module) -> None:
    with libtz.open(source, options=QUIET) as file:
        for _ in file.iter_tensors():
            time.sleep(PIECE_S / 2)


def leave_early(source: Any, module: torch.nn.Module) -> None:
    with libtz.open(source, options=QUIET) as file:
        tensors = file.iter_tensors()
        for _ in range(COUNT // 3):
            next(tensors)
        tensors.close()  # type: ignore[attr-defined]


def run(seed: int) -> bool:
    """Whether the load was interrupted."""
    global inside
    chance = random.Random(seed)
    inside = [load_model, load, slices, iterate, leave_early][seed % 5]
    source = ScriptedSource(FILE.data, lambda number, place: time.sleep(PIECE_S))
    opening.resolve_source = lambda *_: source  # type: ignore[attr-defined]
    empty = {name: torch.nn.Buffer(torch.zeros(MIB, dtype=torch.uint8)) for name in FILE.tensors}
    module = torch.nn.Module()
    for name, buffer in empty.items():
        module.register_buffer(name, buffer)
    sender = threading.Thread(target=send, args=(chance,))
    sender.start()
    is_interrupted = False
    try:
        inside(source, module)
    except KeyboardInterrupt as error:
        is_interrupted = True
        error.__traceback__ = None
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("libtz-")]
    assert not left, f"seed {seed}: {inside.__name__} left {left}"
    before = {name: bytes(buffer.numpy()) for name, buffer in empty.items()}
    sender.join()
    assert signal.getsignal(signal.SIGINT) is interrupt
    time.sleep(2 * PIECE_S)
    for name, buffer in empty.items():
        assert bytes(buffer.numpy()) == before[name], f"seed {seed}: {name} was written to"
        if inside is load_model and not is_interrupted:
            assert before[name] == FILE.tensors[name].data
    return is_interrupted


def main(seeds: int) -> None:
    signal.signal(signal.SIGINT, interrupt)
    gc.disable()  # the collector must not end threads
    print(sum(run(seed) for seed in range(seeds)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
