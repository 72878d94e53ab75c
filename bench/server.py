"""nginx over plain HTTP on a free loopback port: only it is fast enough to measure a client."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import free_ports, running

CONF = """\
{user}
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
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@contextmanager
def nginx_server(root: Path) -> Iterator[str]:
    """The URL below which `root` is served until the block ends."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("the scene http needs nginx (Debian and Ubuntu: apt-get install nginx)")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="libtz-nginx-") as name:
        prefix = Path(name)
        user = "user root;" if os.geteuid() == 0 else ""
        text = CONF.format(user=user, prefix=prefix, port=port, root=root)
        (prefix / "nginx.conf").write_text(text)
        command = [program, "-p", name, "-c", str(prefix / "nginx.conf"), "-e", f"{name}/error.log"]
        with running(command, port, prefix / "log"):
            yield f"http://127.0.0.1:{port}"
