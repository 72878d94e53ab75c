"""Errors of load_model for modules that are sharded over processes, and their remedies."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.layers import stored, two_layers
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from libtz.errors import OptionError
from libtz.torch import load_file, load_model, no_init, save_file

# Importing these parts of torch takes seconds.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_dtensors_change_nothing(mesh: DeviceMesh) -> None:
    source = two_layers()
    target = stored(source)
    for is_meta in (False, True):
        with torch.device("meta" if is_meta else "cpu"):
            net = two_layers()
        sharded = distribute_tensor(net[1].weight.detach(), mesh, [Shard(0)])
        net[1].weight = nn.Parameter(sharded)
        before = net[0].weight.detach().clone()
        with pytest.raises(OptionError, match=r"'1.weight' is a DTensor.*set_model_state_dict"):
            load_model(net, target)
        assert is_meta or torch.equal(net[0].weight, before)
        # Tensors that are not in the file stay unchanged.
        rest = {name: t for name, t in source.state_dict().items() if name != "1.weight"}
        part = io.BytesIO()
        save_file(rest, part)
        assert load_model(net, part, strict=False) == (["1.weight"], [])
        assert torch.equal(net[0].weight, source[0].weight)


def test_the_ways_on_for_sharded_modules_work(mesh: DeviceMesh) -> None:
    source = two_layers()
    target = stored(source)
    net = two_layers()
    fully_shard(net, mesh=mesh)
    with pytest.raises(OptionError, match="fully_shard"):
        load_model(net, target)
    options = StateDictOptions(full_state_dict=True)
    full: dict[str, Any] = {**load_file(target)}
    set_model_state_dict(net, full, options=options)
    assert torch.equal(net[1].weight.full_tensor(), source[1].weight)
    with no_init():
        net = two_layers()
    load_model(net, target)
    fully_shard(net, mesh=mesh)
    assert torch.equal(net[1].weight.full_tensor(), source[1].weight)
