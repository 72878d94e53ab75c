"""Modules: save_model and load_model with ties, and typical handling of mismatches."""

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_file, save_model

folder = Path(sys.argv[1])


class Net(torch.nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.a = torch.nn.Linear(width, 9, bias=False)
        self.b = torch.nn.Linear(width, 9)
        self.c = torch.nn.Linear(9, width, bias=False)
        self.b.weight = self.a.weight
        self.c.weight = torch.nn.Parameter(self.c.weight.t().contiguous().t())
        self.register_buffer("count", torch.tensor(3))


torch.manual_seed(3)
net, other = Net(), Net()
path = str(folder / "model.safetensors")
returned = save_model(net, path, metadata={"made": "today"})
told = load_model(other, path)
with safe_open(path, "pt") as f:
    keys, metadata = sorted(f.keys()), f.metadata()

# A file of the whole module, and a fallback as in trainers.
fallback = []
try:
    save_file(net.state_dict(), folder / "all.safetensors")
except RuntimeError as error:
    fallback.append("share memory" in str(error))
    save_model(net, str(folder / "all.safetensors"))
try:
    save_model(net, str(folder / "no.safetensors"), force_contiguous=False)
except ValueError as error:
    fallback.append("contiguous" in str(error))
fallback.append((folder / "no.safetensors").exists())

mismatches = []
save_file({"a.weight": torch.zeros(9, 4), "extra": torch.zeros(1)}, folder / "partial.safetensors")
missing, unexpected = load_model(other, folder / "partial.safetensors", strict=False)
mismatches.append((sorted(missing), sorted(unexpected)))
try:
    load_model(Net(), folder / "partial.safetensors")
except RuntimeError as error:
    mismatches.append(["b.bias" in str(error), "extra" in str(error), "count" in str(error)])
try:
    load_model(Net(5), path)
except RuntimeError as error:
    mismatches.append("a.weight" in str(error) or "b.weight" in str(error))

# From another tool's name.
save_file(
    {n: t.contiguous() for n, t in net.state_dict().items() if n != "a.weight"},
    folder / "other-name.safetensors",
)
third = Net()
preferred = load_model(third, folder / "other-name.safetensors")
with torch.no_grad():
    out = third.b(torch.ones(4))

results = {
    "returned": returned,
    "told": [sorted(names) for names in told],
    "keys": keys,
    "metadata": metadata,
    "state": dict(other.state_dict()),
    "fallback": fallback,
    "mismatches": mismatches,
    "preferred": [sorted(names) for names in preferred],
    "third": [dict(third.state_dict()), out, third.a.weight is third.b.weight],
}
