"""Tensors whose memory is gone, or never was: refused wherever an address is taken from them.

Without the check the process ends with a signal, so each entry point runs in a process of its own,
forked by one that has imported everything.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from libtz.arrays.torch_memory import memory_of
from libtz.errors import OptionError

COUNT = 1 << 14

# The tensor of each kind has COUNT elements.
TENSORS = {
    "freed": "t = arange(); t.untyped_storage().resize_(0)",
    "shrunk": "t = arange(); t.untyped_storage().resize_(4096)",
    "a view of freed memory": (
        "base = torch.zeros(2 * COUNT); t = base[COUNT:]; base.untyped_storage().resize_(0)"
    ),
    "freed, not contiguous": ("t = arange().view(128, 128).t(); t.untyped_storage().resize_(0)"),
    "set_ over a storage that shrank": (
        "s = torch.zeros(COUNT).untyped_storage(); t = torch.empty(0).set_(s, 0, (COUNT,), (1,));"
        " s.resize_(16)"
    ),
    "swapped with a freed one": (
        "t, other = arange(), arange(); other.untyped_storage().resize_(0);"
        " torch.utils.swap_tensors(t, other)"
    ),
    "fake": "t = fake(COUNT)",
    "functional": "t = torch._to_functional_tensor(arange())",
    "zeros that are not stored": "t = torch._efficientzerotensor((COUNT,))",
}

ENTRIES = {
    "save_file": "libtz.torch.save_file({'w': t}, io.BytesIO())",
    "save": "libtz.torch.save({'a': [t]}, io.BytesIO())",
    "save_model": "libtz.torch.save_model(module(t), io.BytesIO())",
    "Writer": "writer(t).write('w', t if t.is_contiguous() else [t])",
    "load_model": "libtz.torch.load_model(module(t), saved(t))",
    "safetensors save": "safetensors.save({'w': t})",
    "safetensors save_model": "safetensors.save_model(module(t), path)",
    "safetensors _to_ndarray": "safetensors._to_ndarray(t)",
    "safetensors load_model": "safetensors.load_model(module(t), saved(t))",
    "tensorizer write_tensor": "serializer().write_tensor(0, 'w', 0, t)",
    "tensorizer write_module": "serializer().write_module(module(t))",
    "tensorizer write_state_dict": "serializer().write_state_dict({'w': [t]})",
    "tensorizer write_module to .tz": "serializer('.tz').write_module(module(t))",
    "tensorizer verify_module": "deserializer(t).verify_module(module(t))",
}

# Replacing a tensor does not need the old one's memory.
RUNS = {"tensorizer load_into_module": "deserializer(t).load_into_module(module(t))"}

SCRIPT = """
import io, json, os, sys, tempfile
import torch
from torch._subclasses import FakeTensorMode
import libtz, libtz.torch
from libtz.compat.safetensors import torch as safetensors
from libtz.compat.tensorizer import TensorDeserializer, TensorSerializer

tensors, entries, COUNT, folder = json.loads(sys.argv[1])
path = os.path.join(folder, "x.safetensors")

def arange():
    return torch.arange(COUNT).float()

def fake(count):
    with FakeTensorMode():
        return torch.ones(count)

def module(t):
    net = torch.nn.Module()
    net.register_buffer("before", torch.zeros(3))
    net.register_buffer("w", t)
    return net

def saved(t):
    place = os.path.join(folder, "saved.tz")
    libtz.torch.save_file({"before": torch.ones(3), "w": torch.ones(tuple(t.shape))}, place)
    return place

def writer(t):
    return libtz.Writer(io.BytesIO(), [libtz.TensorSpec("w", "f32", tuple(t.shape))])

def serializer(suffix=".tensors"):
    return TensorSerializer(os.path.join(folder, "x" + suffix))

def deserializer(t):
    return TensorDeserializer(saved(t), device="cpu")

fake(1)  # what it imports takes seconds

for entry, code in entries.items():
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        continue
    for kind, make in tensors.items():
        names = dict(globals())
        try:
            exec(make, names)
            exec(code, names)
            outcome, message = "nothing", ""
        except BaseException as error:
            is_ours = isinstance(error, libtz.OptionError)
            outcome, message = "OptionError" if is_ours else type(error).__name__, str(error)
        print(json.dumps([kind, entry, outcome, message]), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[str, str]]:
    folder = str(tmp_path_factory.mktemp("memory"))
    argument = json.dumps([TENSORS, ENTRIES | RUNS, COUNT, folder])
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    told = {(kind, entry): (outcome, message) for kind, entry, outcome, message in lines}
    cases = itertools.product(TENSORS, ENTRIES | RUNS)
    return {case: told.get(case, ("the process ended", "")) for case in cases}


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_without_memory_are_refused(kind: str, entry: str, outcomes: Any) -> None:
    outcome, message = outcomes[kind, entry]
    assert outcome == "OptionError", (outcome, message)
    assert "of its storage, which has" in message or "no memory of its own" in message


@pytest.mark.slow
@pytest.mark.parametrize("entry", RUNS)
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_without_memory_can_be_replaced(kind: str, entry: str, outcomes: Any) -> None:
    assert outcomes[kind, entry] == ("nothing", "")


def test_where_the_elements_of_a_tensor_lie() -> None:
    base = torch.zeros(100, dtype=torch.int16)
    start = base.data_ptr()
    assert memory_of(base) == (start, start + 200)
    assert memory_of(base[10:20]) == (start + 20, start + 40)
    assert memory_of(base.as_strided((3, 4), (30, 2), 5)) == (start + 10, start + 10 + 2 * 67)
    assert memory_of(base[:1].expand(5, 5)) == (start, start + 2)
    assert memory_of(base.as_strided((8, 8), (1, 1))) == (start, start + 30)
    assert memory_of(base[50:50]) == memory_of(torch.empty(3, 0)) == (0, 0)
    # Exactly enough memory is accepted; one byte less is refused.
    view = base[10:20]
    base.untyped_storage().resize_(40)
    assert memory_of(view) == (view.data_ptr(), view.data_ptr() + 20)
    base.untyped_storage().resize_(39)
    with pytest.raises(OptionError, match="needs 40 bytes of its storage, which has 39"):
        memory_of(view)


def test_a_subclass_cannot_answer_for_its_memory() -> None:
    class Elsewhere(torch.Tensor):
        def data_ptr(self) -> int:
            return 4096

        def untyped_storage(self) -> Any:
            raise ZeroDivisionError

        def numel(self) -> int:
            return 1

    tensor = torch.ones(5)
    address = tensor.data_ptr()
    assert memory_of(tensor.as_subclass(Elsewhere)) == (address, address + 20)
    with pytest.raises(OptionError, match="no memory of its own"):
        torch.vmap(memory_of)(torch.ones(2, 3))
