"""All kinds of local sources and targets."""

import io
import pathlib
import sys
import tempfile
import typing

import torch
from tensorizer import TensorDeserializer, TensorSerializer
from tensorizer.stream_io import open_stream

folder = pathlib.Path(sys.argv[1])
state = {"x": torch.arange(1000.0), "y": torch.tensor(3, dtype=torch.int8)}


def write(target: typing.Any) -> None:
    serializer = TensorSerializer(target)
    serializer.write_state_dict(state)
    serializer.close()


def read(source: typing.Any) -> dict[str, torch.Tensor]:
    with TensorDeserializer(source, device="cpu", verify_hash=True) as deserializer:
        return dict(deserializer)


class Unclosed(io.BytesIO):
    """Keeps its contents after the serializer closes it."""

    def close(self) -> None:
        pass


memory = Unclosed()
write(memory)
write(str(folder / "a" / "b" / "x.tensors"))
write(folder / "x.tensors")
write((folder / "object.tensors").open("wb+"))
with tempfile.NamedTemporaryFile("wb+", delete=False, dir=folder, suffix=".tensors") as temporary:
    write(temporary)
with open_stream(folder / "deep" / "stream.tensors", "wb+") as stream:
    write(stream)

names = ["a/b/x.tensors", "x.tensors", "object.tensors"]
names += [pathlib.Path(temporary.name).name, "deep/stream.tensors"]
results: dict[str, typing.Any] = {
    f"written {place}": read(str(folder / name)) for place, name in enumerate(names)
}
memory.seek(0)
results["memory"] = read(io.BytesIO(memory.getvalue()))
results["object"] = read((folder / "x.tensors").open("rb"))
results["unbuffered"] = read((folder / "x.tensors").open("rb", buffering=0))
results["mode"] = oct((folder / "x.tensors").stat().st_mode & 0o777)
with open_stream(str(folder / "x.tensors"), begin=1, buffer_size=100) as stream:
    results["stream"] = [stream.read(4), stream.seekable(), stream.readable()]
with open_stream(str(folder / "text"), "wb") as stream:
    results["count"] = stream.write(b"some text")
with open_stream(str(folder / "text"), "ab") as stream:
    stream.write(b", more text")
results["text"] = open_stream(str(folder / "text")).read()
