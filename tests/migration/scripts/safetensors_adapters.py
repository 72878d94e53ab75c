"""Adapters, saved and loaded as in peft; tools that merge, rename and read metadata."""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file as safe_load_file
from safetensors.torch import save_file as safe_save_file
from safetensors.torch import storage_ptr, storage_size

folder = Path(sys.argv[1])
torch.manual_seed(4)
lora = {
    f"base_model.model.layers.{i}.{side}.weight": torch.rand(2, 6)
    for i in range(2)
    for side in ("lora_A", "lora_B")
}
alias = lora["base_model.model.layers.0.lora_A.weight"]
pointers = {(t.device, storage_ptr(t), storage_size(t)) for t in (*lora.values(), alias)}
safe_save_file(
    lora, folder / "adapter_model.safetensors", metadata={"format": "pt", "ss_network_dim": "2"}
)

filename = str(folder / "adapter_model.safetensors")
weights = safe_load_file(filename, device="cpu")
with safe_open(filename, framework="pt", device="cpu") as f:
    dimension = int((f.metadata() or {}).get("ss_network_dim", 0))
    names = [key for key in f.keys() if "lora_A" in key]

merged = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
merged = {name: tensor.to(torch.float16).contiguous() for name, tensor in merged.items()}
safe_save_file(merged, folder / "merged.safetensors")
with (folder / "merged.safetensors").open("rb") as file:
    digest = hashlib.sha256(file.read()).hexdigest()

model = torch.nn.ModuleDict({"lora_A": torch.nn.Linear(6, 2, bias=False)})
incompatible = model.load_state_dict(
    {"lora_A.weight": weights["base_model.model.layers.1.lora_A.weight"]}, strict=False
)
results = {
    "count": len(pointers),
    "weights": weights,
    "dimension": dimension,
    "names": names,
    "merged": safe_load_file(folder / "merged.safetensors"),
    "digest": digest,
    "model": [dict(model.state_dict()), list(incompatible.missing_keys)],
}
