"""Loading files into modules, and modules without memory."""

from __future__ import annotations

import io
import json
import pickle
import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.files import Tensor, make_file
from torch import nn

import libtz
import libtz.torch
from libtz.arrays.torch_dtypes import FORMAT_NAMES
from libtz.errors import IntegrityError, OptionError
from libtz.format import digest_text
from libtz.torch.module import load_model
from libtz.torch.no_init import no_init

MIB = 1 << 20


def file_of(tensors: dict[str, torch.Tensor], ties: dict[str, str] | None = None) -> bytes:
    entries = {
        name: Tensor(
            FORMAT_NAMES[tensor.dtype],
            tuple(tensor.shape),
            tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in tensors.items()
    }
    return make_file(entries, ties=ties).data


class Net(nn.Module):
    frequencies: torch.Tensor

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.body = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(16, 50, bias=False)
        self.scale = nn.Parameter(0.02 * torch.randn(16))
        if tied:
            self.head.weight = self.embed.weight
        self.embed.weight.requires_grad_(False)
        self.register_buffer("frequencies", 1.0 / torch.arange(1, 9), persistent=False)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_states_equal(module: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    found = module.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def saved() -> tuple[bytes, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    expected = state(Net())
    return file_of(expected), expected


def test_load_file(saved: Any) -> None:
    data, expected = saved
    with libtz.open(data) as f:
        digest = f.digest
    tensors = libtz.torch.load_file(data, digest=digest)
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_module_is_filled_where_its_tensors_are(saved: Any) -> None:
    data, expected = saved
    net = Net()
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    places = {name: (id(tensor), tensor.data_ptr()) for name, tensor in tensors.items()}
    versions = {name: tensor._version for name, tensor in tensors.items()}
    assert load_model(net, data) == ([], [])
    assert_states_equal(net, expected)
    for name, tensor in {**dict(net.named_parameters()), **dict(net.named_buffers())}.items():
        assert places[name] == (id(tensor), tensor.data_ptr())
        if name != "frequencies":
            assert tensor._version > versions[name]  # autograd knows that it was written
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["embed.weight"]
    assert torch.equal(net.frequencies, 1.0 / torch.arange(1, 9))


def test_a_module_built_without_memory(saved: Any) -> None:
    data, expected = saved
    with no_init():
        net = Net()
    assert all(parameter.is_meta for parameter in net.parameters())
    assert not any(buffer.is_meta for buffer in net.buffers())
    optimizer_sees = net.scale
    assert load_model(net, data) == ([], [])
    assert_states_equal(net, expected)
    assert optimizer_sees is not net.scale  # a tensor from the meta device is a new object
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in net.parameters())
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["embed.weight"]
    net.body(torch.rand(3, 16)).sum().backward()


def test_no_init_takes_no_memory() -> None:
    pages = Path("/proc/self/statm")
    before = int(pages.read_text().split()[1])
    with no_init():
        layers = [nn.Linear(8192, 8192) for _ in range(4)]
        layers.append(nn.Linear(1, 1))
        layers[0].extra = nn.Parameter(torch.randn(8192, 8192))
    grown = (int(pages.read_text().split()[1]) - before) * resource.getpagesize()
    assert grown < 64 * MIB  # four times 256 MiB would be the weights


def test_no_init_is_over_at_its_end_and_only_for_its_thread() -> None:
    made: list[nn.Module] = []
    with no_init():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        with pytest.raises(ZeroDivisionError), no_init():
            raise ZeroDivisionError
        assert nn.Linear(2, 2).weight.is_meta
    made.append(nn.Linear(2, 2))
    assert not any(layer.weight.is_meta for layer in made)
    assert torch.randn(1000).std() > 0.5


def test_ties_of_the_module_are_kept() -> None:
    source = Net(tied=True)
    expected = state(source)
    for make in (lambda: Net(tied=True), without_memory):
        net = make()  # type: ignore[no-untyped-call]
        data = file_of(expected, {"head.weight": "embed.weight"})
        assert load_model(net, data) == ([], [])
        assert net.head.weight is net.embed.weight
        assert_states_equal(net, expected)


def without_memory() -> Net:
    with no_init():
        return Net(tied=True)


def test_a_tie_stored_once_or_as_equal_copies() -> None:
    expected = state(Net(tied=True))
    once = {name: tensor for name, tensor in expected.items() if name != "head.weight"}
    for data in (file_of(once), file_of(expected), safetensors_of(expected), safetensors_of(once)):
        net = Net(tied=True)
        assert load_model(net, data) == ([], [])
        assert_states_equal(net, expected)


def test_a_tie_stored_as_different_tensors() -> None:
    expected = state(Net(tied=True))
    expected["head.weight"] = expected["head.weight"] + 1
    for data in (file_of(expected), safetensors_of(expected)):
        net = Net(tied=True)
        before = state(net)
        with pytest.raises(OptionError, match="differ in the file"):
            load_model(net, data)
        assert_states_equal(net, before)


def safetensors_of(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return bytes(save({name: tensor.clone() for name, tensor in tensors.items()}))


def test_ties_of_the_file() -> None:
    net = Net()
    with torch.no_grad():
        net.head.weight.copy_(net.embed.weight)
    expected = state(net)
    data = file_of(expected, {"head.weight": "embed.weight"})
    apart = Net()
    assert load_model(apart, data) == ([], [])
    assert_states_equal(apart, expected)
    assert apart.head.weight.data_ptr() != apart.embed.weight.data_ptr()
    with no_init():
        meta = Net()
    assert load_model(meta, data) == ([], [])
    assert_states_equal(meta, expected)
    # embed.weight does not require a gradient, head.weight does: one memory, two parameters.
    assert meta.head.weight.data_ptr() == meta.embed.weight.data_ptr()
    assert meta.head.weight.requires_grad
    assert not meta.embed.weight.requires_grad


def test_tensors_that_are_not_contiguous() -> None:
    net = nn.Linear(30, 20)
    net.weight = nn.Parameter(torch.zeros(30, 20).t())
    expected = {"weight": torch.rand(20, 30), "bias": torch.rand(20)}
    weight = net.weight
    load_model(net, file_of(expected))
    assert net.weight is weight
    assert net.weight.stride() == (1, 20)
    assert_states_equal(net, expected)


def test_views_of_one_memory_under_two_parameters() -> None:
    """Two parameters over the same memory are one tensor, even if they are different objects."""
    net = nn.Linear(4, 4, bias=False)
    other = nn.Linear(4, 4, bias=False)
    other.weight.data = net.weight.data
    both = nn.ModuleList([net, other])
    weight = torch.rand(4, 4)
    assert load_model(both, file_of({"1.weight": weight})) == ([], [])
    assert torch.equal(net.weight, weight)


def test_parameters_whose_memory_is_gone_are_no_tie() -> None:
    """Both have the address 0."""
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    data = file_of({"a.weight": torch.ones(3, 3), "b.weight": torch.zeros(3, 3)})
    for parameter in net.parameters():
        parameter.untyped_storage().resize_(0)
    with pytest.raises(OptionError, match=r"'a.weight' needs 36 bytes of its storage.*\n.*'b.wei"):
        load_model(net, data)


def test_elements_that_share_memory_get_their_own() -> None:
    base = torch.zeros(20)
    expected = torch.arange(12.0).view(3, 4)
    for tensor in (base[:4].expand(3, 4), base.as_strided((3, 4), (1, 1)), base[::2][:9:8]):
        net = nn.Module()
        net.register_buffer("b", tensor)
        wanted = expected if tensor.dim() == 2 else torch.ones(2)
        load_model(net, file_of({"b": wanted}))
        assert torch.equal(net.get_buffer("b"), wanted)
    assert torch.equal(base[16], torch.tensor(1.0))  # the last one was written in place


def test_everything_that_does_not_fit_is_told_at_once(saved: Any) -> None:
    _, expected = saved
    del expected["scale"]
    expected["head.weight"] = torch.zeros(50, 17)
    expected["body.0.bias"] = torch.zeros(8, dtype=torch.float64)
    expected["extra"] = torch.zeros(1)
    data = file_of(expected)
    net = Net()
    before = state(net)
    with pytest.raises(OptionError) as caught:
        load_model(net, data)
    for told in (
        "missing in the file: 'scale'",
        "not in the module: 'extra'",
        "'head.weight' has shape (50, 17) in the file and (50, 16) in the module",
        "'body.0.bias' has dtype f64 in the file and torch.float32 in the module",
    ):
        assert told in str(caught.value)
    with pytest.raises(OptionError, match="shape") as caught:
        load_model(net, data, strict=False)
    assert "missing" not in str(caught.value)
    assert_states_equal(net, before)


def test_missing_and_unexpected_names(saved: Any) -> None:
    _, expected = saved
    scale = expected.pop("scale")
    data = file_of({**expected, "extra": torch.zeros(1)})
    net = Net()
    own = net.scale.detach().clone()
    assert load_model(net, data, strict=False) == (["scale"], ["extra"])
    assert_states_equal(net, {name: expected.get(name, own) for name in net.state_dict()})
    assert not torch.equal(own, scale)


def test_damage_leaves_meta_modules_as_they_were(saved: Any) -> None:
    data, _ = saved
    damaged = bytearray(data)
    damaged[-1] ^= 1
    with no_init():
        net = Net()
    with pytest.raises(IntegrityError) as caught:
        load_model(net, bytes(damaged))
    assert all(parameter.is_meta for parameter in net.parameters())
    assert caught.value.changed == ()
    assert "embed.weight" not in str(caught.value)


def test_damage_names_what_was_being_written(saved: Any) -> None:
    data, _ = saved
    damaged = bytearray(data)
    damaged[-1] ^= 1
    with pytest.raises(IntegrityError, match=r"now undefined: 'scale'") as caught:
        load_model(Net(), bytes(damaged))
    assert caught.value.chunk == 0
    assert "scale" in caught.value.changed
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.changed, str(again)) == (caught.value.changed, str(caught.value))


@pytest.mark.parametrize("kind", ["file", "set"])
def test_a_failure_in_the_middle_names_what_changed(kind: str, tmp_path: Path) -> None:
    """Tensors after the damage were not changed, and are not named."""
    net = nn.ModuleDict({f"m{number:02}": nn.Linear(512, 1024, bias=False) for number in range(12)})
    before = state(net)
    new = {name: tensor + 1 for name, tensor in before.items()}
    files = {"model.tz": list(new)}
    if kind == "set":
        files = {f"{part}.tz": list(new)[part * 4 : part * 4 + 4] for part in range(3)}
        weight_map = {name: file for file, names in files.items() for name in names}
        index = tmp_path / "model.tz.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
    for file, names in files.items():
        options = libtz.WriteOptions(compress="off")
        part = {name: new[name] for name in names}
        libtz.torch.save_file(part, tmp_path / file, options=options)
    damage(tmp_path / ("1.tz" if kind == "set" else "model.tz"), 0.5)
    with pytest.raises(IntegrityError) as caught:
        load_model(net, tmp_path)
    for name, tensor in net.state_dict().items():
        if name not in caught.value.changed:
            assert torch.equal(tensor, before[name]), name
    assert "m00.weight" in caught.value.changed
    if kind == "set":  # its files are loaded one after another; within one, threads differ in speed
        assert "m11.weight" not in caught.value.changed


def damage(path: Path, place: float) -> None:
    offset = int(path.stat().st_size * place)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_failures_before_the_first_byte_change_nothing(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    before = state(net)
    libtz.torch.save_model(net, tmp_path / "x.tz")
    data = (tmp_path / "x.tz").read_bytes()
    wrong: Any = {"no": "source"}
    for source in (tmp_path / "nothing", data[:100], data[:-8], b"", wrong):
        with pytest.raises(libtz.Error) as caught:
            load_model(net, source)
        assert caught.value.changed == ()
        assert_states_equal(net, before)


def test_tensors_that_are_copied_are_named_one_by_one(tmp_path: Path) -> None:
    net = nn.ModuleList([nn.Linear(700, 700, bias=False) for _ in range(4)])
    for layer in net:
        layer.weight = nn.Parameter(torch.zeros(700, 700).t())  # not contiguous
    new = {f"{number}.weight": torch.rand(700, 700) for number in range(4)}
    libtz.torch.save_file(new, tmp_path / "x.tz", options=libtz.WriteOptions(compress="off"))
    damage(tmp_path / "x.tz", 0.999)
    with pytest.raises(IntegrityError) as caught:
        load_model(net, tmp_path / "x.tz")
    assert "3.weight" not in caught.value.changed
    for name, tensor in net.state_dict().items():
        expected = new[name] if name in caught.value.changed else torch.zeros(700, 700)
        assert torch.equal(tensor, expected)


def test_a_wrong_pin_changes_nothing(saved: Any) -> None:
    data, _ = saved
    net = Net()
    before = state(net)
    with pytest.raises(IntegrityError):
        load_model(net, data, digest=digest_text(bytes(32)))
    assert_states_equal(net, before)


def test_buffers_that_nothing_can_fill(saved: Any) -> None:
    data, expected = saved
    with torch.device("meta"):
        net = Net()
    with pytest.raises(OptionError, match=r"'frequencies', a non-persistent.*no_init"):
        load_model(net, data)
    assert load_model(net, data, strict=False) == ([], [])
    assert_states_equal(net, expected)


def test_non_persistent_buffers_by_option(saved: Any) -> None:
    net = Net()
    net.frequencies *= 2
    target = io.BytesIO()
    libtz.torch.save_model(net, target, non_persistent=True)
    with libtz.open(target) as file:
        assert set(file) == {*net.state_dict(), "frequencies"}
    with torch.device("meta"):
        meta = Net()
    for other in (meta, Net(), without_memory_untied()):
        assert load_model(other, target) == ([], [])
        assert_states_equal(other, state(net))
        assert torch.equal(other.frequencies, net.frequencies)


def test_lazy_modules() -> None:
    """PyTorch sets their shapes in a hook."""
    weight = torch.rand(4, 3)
    net = nn.LazyLinear(4)
    assert load_model(net, file_of({"weight": weight, "bias": torch.zeros(4)})) == ([], [])
    assert torch.equal(net.weight, weight)
    net = nn.LazyLinear(4)
    assert net._load_hook is not None
    net._load_hook.remove()
    with pytest.raises(OptionError, match="has no shape yet"):
        load_model(net, file_of({"weight": weight, "bias": torch.zeros(4)}))


def test_the_device_where_everything_is_already(saved: Any) -> None:
    data, _ = saved
    net = Net()
    parameters = dict(net.named_parameters())
    load_model(net, data, device="cpu")
    assert dict(net.named_parameters()) == parameters


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_modules_on_cuda(saved: Any, device: str) -> None:
    data, expected = saved
    for make in (Net, lambda: Net().to(device), without_memory_untied):
        net = make()  # type: ignore[no-untyped-call]
        load_model(net, data, device=device)
        assert {tensor.device.type for tensor in net.state_dict().values()} == {"cuda"}
        assert net.frequencies.device.type == "cuda"
        assert_states_equal(net.cpu(), expected)
    net = Net().to(device)
    places = [parameter.data_ptr() for parameter in net.parameters()]
    load_model(net, data)
    assert places == [parameter.data_ptr() for parameter in net.parameters()]


def without_memory_untied() -> Net:
    with no_init():
        return Net()


def test_nested_objects() -> None:
    obj = {"step": 3, "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "state": {0: torch.rand(3)}}
    target = io.BytesIO()
    libtz.torch.save(obj, target)
    loaded = libtz.torch.load(target)
    assert torch.equal(loaded["state"].pop(0), obj["state"].pop(0))  # type: ignore[attr-defined]
    assert loaded == obj
