"""Errors that a program with downloads, retries and fallbacks catches."""

import sys
from pathlib import Path

import torch
from tensorizer import TensorDeserializer, TensorSerializer
from tensorizer.serialization import HashMismatchError
from tensorizer.stream_io import CAInfo, open_stream
from tensorizer.torch_compat import tensorizer_loading, tensorizer_saving

folder = Path(sys.argv[1])
path = folder / "x.tensors"
results = {}


def write(state):
    serializer = TensorSerializer(path)
    serializer.write_state_dict(state)
    serializer.close()


def attempt(name, *kinds):
    def run(function):
        try:
            function()
            results[name] = "nothing raised"
        except kinds as error:
            results[name] = next(kind.__name__ for kind in kinds if isinstance(error, kind))

    return run


attempt("missing", FileNotFoundError)(lambda: TensorDeserializer(folder / "nothing.tensors"))
attempt("missing file", OSError)(lambda: TensorDeserializer(str(folder / "no" / "x.tensors")))
attempt("missing stream", FileNotFoundError)(lambda: open_stream(str(folder / "nothing")))
path.write_bytes(b"something else" * 100_000)
attempt("magic", ValueError)(lambda: TensorDeserializer(path, device="cpu"))
attempt("a list of numbers", TypeError)(lambda: write([1, 2]))
attempt("a number", TypeError)(lambda: write({"x": 7}))
attempt("int keys", TypeError)(lambda: write({7: torch.ones(1)}))
attempt("sparse", Exception)(lambda: write({"x": torch.eye(3).to_sparse()}))
attempt("cpu limit", ValueError)(lambda: TensorSerializer(path, limit_cpu_concurrency=0))
attempt("cpu limit type", TypeError)(lambda: TensorSerializer(path, limit_cpu_concurrency="2"))
attempt("encryption", TypeError)(lambda: TensorSerializer(path, encryption=b"k" * 32))
attempt("a text file", Exception)(lambda: TensorSerializer((folder / "text").open("w")))

write({"x": torch.arange(100.0), "y": torch.ones(3)})
deserializer = TensorDeserializer(path, device="cpu", lazy_load=True)
attempt("no such key", KeyError)(lambda: deserializer["nothing"])
attempt("readers", ValueError)(lambda: TensorDeserializer(path, device="cpu", num_readers=0))
attempt("readers type", TypeError)(lambda: TensorDeserializer(path, device="cpu", num_readers="a"))
attempt("decryption", TypeError)(lambda: TensorDeserializer(path, device="cpu", encryption="k"))
attempt("into a module", NotImplementedError)(
    lambda: deserializer.load_into_module(torch.nn.Linear(2, 2))
)
attempt("num_tensors", ValueError)(lambda: list(deserializer.read_tensors(num_tensors=-2)))
attempt("certificates", ValueError)(lambda: CAInfo())
attempt("mode", ValueError)(lambda: open_stream(str(path), "r"))
attempt("device", RuntimeError)(lambda: TensorDeserializer(path, device="cuda"))
deserializer.close()
deserializer.close()

serializer = TensorSerializer(path)
serializer.write_module(torch.nn.Sequential(torch.nn.Linear(2, 2)))
serializer.close()
deserializer = TensorDeserializer(path, device="cpu")
attempt("another module", KeyError)(
    lambda: deserializer.load_into_module(
        torch.nn.ModuleDict({"other": torch.nn.Linear(2, 2)}), filter_func=lambda name: "0" in name
    )
)
write({"x": torch.arange(100.0)})
data = bytearray(path.read_bytes())
data[-100] ^= 1
path.write_bytes(data)
attempt("damaged", HashMismatchError)(
    lambda: TensorDeserializer(path, device="cpu", verify_hash=True)
)
