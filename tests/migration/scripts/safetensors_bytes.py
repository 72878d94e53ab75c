"""Bytes instead of files: messages between processes, raw access to headers and tensors."""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError, TensorSpec, deserialize, serialize, serialize_file

folder = Path(sys.argv[1])
tensors = {"x": torch.arange(6.0).view(2, 3), "y": torch.ones(2, dtype=torch.bfloat16)}
message = safetensors.torch.save(tensors, metadata={"kind": "gradient"})
with zipfile.ZipFile(folder / "x.zip", "w") as archive:
    archive.writestr("x.safetensors", message)
with zipfile.ZipFile(folder / "x.zip") as archive:
    received = safetensors.torch.load(archive.read("x.safetensors"))

raw = [
    (name, view["dtype"], view["shape"], bytes(view["data"]), sorted(view))
    for name, view in sorted(deserialize(message))
]
array = np.arange(4, dtype=np.float32).reshape(2, 2)
spec = TensorSpec(
    dtype="float32", shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes
)
packed = serialize({"a": spec}, metadata={"k": "v"})
serialize_file({"a": spec, "b": spec}, str(folder / "raw.safetensors"))
header = json.loads(packed[8 : 8 + int.from_bytes(packed[:8], "little")])
errors = []
for call in (
    lambda: TensorSpec(dtype="floaty", shape=[1], data_ptr=0, data_len=4),
    lambda: serialize(
        {"a": TensorSpec(dtype="int8", shape=[7], data_ptr=array.ctypes.data, data_len=6)}
    ),
    lambda: deserialize(message[:-1]),
    lambda: deserialize(b""),
):
    try:
        call()
        errors.append("fine")
    except SafetensorError:
        errors.append("SafetensorError")

buffer = io.BytesIO(safetensors.numpy.save({"a": array, "swapped": array.astype(">f4")}))
results = {
    "message": message,
    "received": received,
    "writable": received["x"].add_(1),
    "raw": raw,
    "spec": [spec.dtype, spec.shape, spec.data_len, spec.data_ptr == array.ctypes.data],
    "packed": packed,
    "header": header,
    "file": (folder / "raw.safetensors").read_bytes(),
    "errors": errors,
    "numpy": safetensors.numpy.load(buffer.getvalue()),
    "request": [safetensors.torch._to_ndarray(t)[0].tobytes() for t in tensors.values()],
    "version": isinstance(safetensors.__version__, str),
    "module": [safetensors.torch.load(packed), safetensors.safe_open.__name__],
}
