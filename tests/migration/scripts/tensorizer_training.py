"""Nested state: a model, its optimizer's tensors, and lists of them, by paths and as a tree."""

import sys
from pathlib import Path

import torch
from tensorizer import TensorDeserializer, TensorSerializer

path = Path(sys.argv[1]) / "training.tensors"
torch.manual_seed(4)
model = torch.nn.Linear(4, 3)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(4)).sum().backward()
optimizer.step()
state = {
    "model": model.state_dict(),
    "moments": [
        {key: value for key, value in entry.items() if isinstance(value, torch.Tensor)}
        for entry in optimizer.state_dict()["state"].values()
    ],
    "pair": (torch.ones(1), torch.zeros(2, dtype=torch.int64)),
    "step": torch.tensor(7),
}
serializer = TensorSerializer(path)
serializer.write_state_dict(state)
serializer.close()

with TensorDeserializer(path, device="cpu") as deserializer:
    tree = deserializer.tree()
    model.load_state_dict(tree["model"])
    results = {
        "tree": tree,
        "keys": [list(deserializer), list(deserializer["moments"])],
        "moments": [dict(deserializer["moments"][place]) for place in (0, 1)],
        "part": deserializer.tree(("moments", 1)),
        "tensor": deserializer.tree(("moments", 0, "exp_avg")),
        "missing": deserializer.tree(("nothing",), default="nothing"),
        "filtered": deserializer.tree(filter_func=lambda path: "exp_avg" in path),
        "model": dict(model.state_dict()),
    }
with TensorDeserializer(path, device="cpu", lazy_load=True) as deserializer:
    results["names"] = [name for _, _, name, _ in deserializer.read_tensors()]
with TensorDeserializer(
    path, device="cpu", filter_func=lambda name: isinstance(name, tuple) and name[0] == "pair"
) as deserializer:
    results["pair"] = deserializer.tree()
