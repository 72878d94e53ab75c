"""Tensors one by one, as in converters and quantizers."""

import sys
from pathlib import Path

import numpy as np
import torch
from tensorizer import TensorDeserializer, TensorSerializer, TensorType

path = Path(sys.argv[1]) / "stream.tensors"
serializer = TensorSerializer(path)
for number in range(6):
    serializer.write_tensor(
        number // 2,
        f"layers.{number}.weight",
        TensorType.PARAM if number % 2 else TensorType.BUFFER,
        torch.full((number + 1, 3), float(number), dtype=torch.bfloat16),
    )
serializer.write_tensor(9, "ids", TensorType.STATE_DICT, np.arange(5, dtype=np.int32))
total = serializer.total_tensor_bytes
serializer.close()

quantized = {}
with TensorDeserializer(path, device="cpu", lazy_load=True) as deserializer:
    for module_idx, tensor_type, name, tensor in deserializer.read_tensors(num_tensors=4):
        quantized[name] = (module_idx, int(tensor_type), (tensor * 2).to(torch.int8))
    rest = [
        (module_idx, int(tensor_type), name, tensor)
        for module_idx, tensor_type, name, tensor in deserializer.read_tensors(
            filter_func=lambda name: name != "layers.4.weight", verify_hash=True
        )
    ]
    after = list(deserializer.read_tensors())
with TensorDeserializer(path, device="cpu", lazy_load=True) as deserializer:
    arrays = [
        (module_idx, int(tensor_type), name, array.tobytes(), array.shape, is_opaque, dtype)
        for module_idx, tensor_type, name, array, is_opaque, dtype in (
            deserializer.read_numpy_arrays(allow_raw_data=True)
        )
    ]
with TensorDeserializer(path, device="cpu", lazy_load=True) as deserializer:
    try:
        refused = [name for _, _, name, *_ in deserializer.read_numpy_arrays()]
    except ValueError:
        refused = ["opaque"]
with TensorDeserializer(
    path, device="cpu", filter_func=lambda name: name.endswith("weight"), dtype=torch.float32
) as deserializer:
    cast = dict(deserializer)
    tree = deserializer.tree()

results = {
    "total": total,
    "quantized": quantized,
    "rest": rest,
    "after": after,
    "arrays": arrays,
    "refused": refused,
    "cast": cast,
    "tree": tree,
}
