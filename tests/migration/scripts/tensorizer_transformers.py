"""The example of Tensorizer's README: a model of transformers, loaded without initialisation."""

import sys
import time
from pathlib import Path

import torch
from tensorizer import TensorDeserializer, TensorSerializer
from tensorizer.utils import convert_bytes, get_mem_usage, no_init_or_tensor
from transformers import AutoConfig, AutoModelForCausalLM

path = str(Path(sys.argv[1]) / "models" / "gpt2.tensors")

torch.manual_seed(0)
config = AutoConfig.for_model("gpt2", n_layer=2, n_head=2, n_embd=32, vocab_size=99, bos_token_id=1)
original = AutoModelForCausalLM.from_config(config).eval()
serializer = TensorSerializer(path)
serializer.write_module(original)
serializer.close()

before_mem = get_mem_usage()
start = time.time()
model = no_init_or_tensor(lambda: AutoModelForCausalLM.from_config(config))
deserializer = TensorDeserializer(path, device="cpu", plaid_mode=True)
count = deserializer.load_into_module(model)
end = time.time()
total_bytes_str = convert_bytes(deserializer.total_tensor_bytes)
per_second = convert_bytes(deserializer.total_tensor_bytes / (end - start))
deserializer.close()
print(f"Deserialized {total_bytes_str} in {end - start:0.2f}s, {per_second}/s")
print(f"Memory usage before: {before_mem}, after: {get_mem_usage()}")

model.eval()
ids = torch.arange(8)[None]
with torch.no_grad():
    logits, expected = model(ids).logits, original(ids).logits

with no_init_or_tensor():
    again = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
with TensorDeserializer(path, device="cpu", dtype=torch.float16, num_readers=2) as deserializer:
    deserializer.load_into_module(again)

results = {
    "count": count,
    "bytes": total_bytes_str,
    "binary": convert_bytes(3 << 20, decimal=False),
    "memory": get_mem_usage().startswith("CPU: (maxrss: "),
    "equal": torch.equal(logits, expected),
    "logits": logits,
    "half": dict(again.state_dict()),
    "training": [again.training, model.training],
}
