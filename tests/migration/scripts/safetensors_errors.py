"""Errors that code catches: missing, truncated and invalid files, and wrong arguments."""

import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save, save_file

folder = Path(sys.argv[1])
path = folder / "x.safetensors"
results = {}
tensors = {"x": torch.arange(12.0).view(3, 4), "y": torch.ones(2)}


def attempt(name, function, *kinds):
    try:
        function()
        results[name] = "nothing raised"
    except kinds as error:
        results[name] = [place for place, kind in enumerate(kinds) if isinstance(error, kind)]


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


attempt("missing", lambda: load_file(folder / "nothing.safetensors"), FileNotFoundError)
attempt("missing too", lambda: safe_open(str(folder / "nothing"), "pt"), FileNotFoundError)
attempt("a folder that is not there", lambda: save_file(tensors, folder / "no" / "x"), Exception)
attempt("empty", lambda: load(b""), SafetensorError)
attempt("garbage", lambda: load(b"\xff" * 100), SafetensorError)
attempt("too large", lambda: load((1 << 40).to_bytes(8, "little") + b"{}"), SafetensorError)
attempt("no JSON", lambda: load((4).to_bytes(8, "little") + b"{..}"), SafetensorError)
whole = save(tensors)
attempt("cut", lambda: load(whole[:-1]), SafetensorError)
attempt("longer", lambda: load(whole + b"\0"), SafetensorError)
entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
attempt("dtype", lambda: load(header({"x": {**entry, "dtype": "F99"}}) + bytes(8)), SafetensorError)
attempt("shape", lambda: load(header({"x": {**entry, "shape": [3]}}) + bytes(8)), SafetensorError)
path.write_bytes(whole[:-4])
attempt("cut file", lambda: load_file(path), SafetensorError)
attempt("cut open", lambda: safe_open(path, "pt"), SafetensorError)

attempt("no dict", lambda: save_file([torch.ones(1)], path), ValueError)
attempt("no tensor", lambda: save_file({"x": 7}, path), ValueError)
attempt("sparse", lambda: save_file({"x": torch.eye(3).to_sparse()}, path), ValueError)
attempt("transposed", lambda: save_file({"x": torch.ones(2, 3).t()}, path), ValueError)
shared = torch.ones(4)
attempt("shared", lambda: save_file({"x": shared, "y": shared}, path), RuntimeError)
attempt("overlap", lambda: save({"x": shared, "y": shared[:3]}), RuntimeError)
attempt("metadata", lambda: save_file(tensors, path, metadata={"epoch": 3}), TypeError)
attempt("complex128", lambda: save({"x": torch.ones(1, dtype=torch.complex128)}), Exception)

save_file(tensors, path)
with safe_open(path, "pt") as f:
    attempt("no such tensor", lambda: f.get_tensor("z"), SafetensorError)
    attempt("no such slice", lambda: f.get_slice("z"), SafetensorError)
attempt("closed", lambda: f.get_tensor("x"), SafetensorError)
attempt("framework", lambda: safe_open(path, "nonsense"), SafetensorError)
attempt("device", lambda: safe_open(path, "pt", device="nonsense"), SafetensorError)
attempt("backend", lambda: safe_open(path, "pt", backend="nonsense"), SafetensorError)
attempt("cuda", lambda: load_file(path, device="cuda:77"), RuntimeError)
attempt("text", lambda: load("text"), TypeError)
