"""Upload to S3, download from there, and over HTTP."""

import os
import sys

import torch
from tensorizer import TensorDeserializer, TensorSerializer, stream_io

bucket, http_url, http_folder = sys.argv[2:5]
s3 = {
    "s3_access_key_id": os.environ["S3_ACCESS_KEY_ID"],
    "s3_secret_access_key": os.environ["S3_SECRET_ACCESS_KEY"],
    "s3_endpoint": os.environ["S3_ENDPOINT_URL"].removeprefix("http://"),
    "force_http": True,
}
model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.LayerNorm(200))
uri = f"s3://{bucket}/{os.urandom(4).hex()}/model.tensors"
serializer = TensorSerializer(stream_io.open_stream(uri, mode="wb+", **s3))
serializer.write_module(model)
serializer.close()

loaded = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.LayerNorm(200))
stream = stream_io.open_stream(uri, "rb", **s3)
deserializer = TensorDeserializer(stream, device="cpu", plaid_mode=True, verify_hash=True)
deserializer.load_into_module(loaded)
deserializer.close()
with stream_io.open_stream(f"{uri}.json", "wb", **s3) as stream:
    stream.write(b'{"model": "linear"}')
with stream_io.open_stream(f"{uri}.json", "rb", **s3) as stream:
    text = stream.read()

with open(os.path.join(http_folder, "model.tensors"), "wb") as file:
    file.write(stream_io.open_stream(uri, **s3).read())
over_http = stream_io.open_stream(f"{http_url}/model.tensors")
front = over_http.read(5)
over_http.seek(9)
flags = over_http.read(32)
over_http.seek(0)
with TensorDeserializer(over_http, device="cpu", num_readers=2) as deserializer:
    tensors = dict(deserializer)
curl = stream_io.CURLStreamFile(f"{http_url}/model.tensors", headers={"X-Token": "t"}, begin=5)
buffer = bytearray(4)
count = curl.readinto(buffer)
curl.close()
try:
    TensorDeserializer(f"{http_url}/nothing.tensors", device="cpu")
    missing = "found"
except OSError:
    missing = "OSError"
try:
    stream_io.open_stream(f"s3://{bucket}/nothing", **s3).read()
except OSError:
    missing += ", OSError"

results = {
    "equal": [
        torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
    ],
    "text": text,
    "front": [front, flags],
    "http": {name: torch.equal(tensors[name], model.state_dict()[name]) for name in tensors},
    "curl": [count, bytes(buffer)],
    "missing": missing,
}
