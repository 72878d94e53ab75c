"""Without PyTorch: arrays, scikit-learn style."""

import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load, load_file, save, save_file

path = Path(sys.argv[1]) / "arrays.safetensors"
arrays = {
    "coefficients": np.linspace(0, 1, 12).reshape(3, 4),
    "labels": np.array([1, 2, 3], dtype=np.uint16),
    "flags": np.array([True, False]),
    "scalar": np.array(5, dtype=np.int64),
    "none": np.empty((0, 2), dtype=np.float32),
}
returned = save_file(arrays, str(path), metadata={"estimator": "ridge"})
with safe_open(str(path), framework="numpy") as f:
    metadata = f.metadata()
    part = f.get_slice("coefficients")[1:, ::2]
    picked = f.get_slice("coefficients")[:, 1]
    lazily = {key: f.get_tensor(key) for key in f.keys()}
loaded = load_file(path)
loaded["labels"] += 1
results = {
    "returned": returned,
    "metadata": metadata,
    "part": np.ascontiguousarray(part),
    "picked": np.ascontiguousarray(picked),
    "lazily": lazily,
    "loaded": loaded,
    "bytes": save(arrays),
    "again": load(save(arrays)),
}
