"""(c) and (d): API servers around the engine as a library, and two usual ways to move traffic between two models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.compare.way import CHECKPOINT, NEW, OLD, STEP_S, STEPS, Running, infer_url
from harness.network import fetch, free_ports
from harness.places import BACKENDS, ENGINE, ROOT
from harness.processes import Child
from harness.waiting import Failed, until

from baton.local.ports import is_listening

NGINX_PLACES = "/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin"
"""Debian keeps it where PATH of ordinary users does not lead."""
NGINX_MISSING = "nginx is not installed: apt-get install nginx-light"
LOAD_TIMEOUT_S = 600.0
NGINX_CONFIG = """
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/nginx.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    upstream reranker {{
{servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://reranker; }}
    }}
}}
"""


def find_nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path=NGINX_PLACES)


@contextmanager
def behind_nginx(home: Path) -> Iterator[Running]:
    """(c) Start a second server, and rewrite nginx's weights step by step, each with a reload."""
    binary = find_nginx()
    if binary is None:
        raise Failed(NGINX_MISSING)
    (listen,) = free_ports(1)
    config = home / "nginx.conf"
    command = [binary, "-p", str(home), "-e", str(home / "nginx.log"), "-c", str(config)]
    ports: dict[int, int] = {}
    children: list[Child] = []

    def start(version: int) -> Child:
        folder = home / str(version)
        shutil.copytree(CHECKPOINT, folder)
        server = stack.enter_context(_server(home, version, folder))
        children.append(server)
        ports[version] = server.first_line()["port"]
        return server

    def weigh(new: int) -> None:
        weights = {OLD: 100 - new, NEW: new}
        lines = [f"        server 127.0.0.1:{ports[v]} weight={w};" for v, w in weights.items() if w]
        config.write_text(NGINX_CONFIG.format(home=home, port=listen, servers="\n".join(lines)))

    with ExitStack() as stack:
        old = start(OLD)
        weigh(0)
        # Its workers would outlive a master that is killed, so it does not die with us: it is asked to end.
        nginx = stack.enter_context(Child(command, home / "nginx.log", dies_with_us=False))
        children.append(nginx)
        until(lambda: is_listening("127.0.0.1", listen), "nginx to listen")

        def update() -> None:
            start(NEW)
            for percent in STEPS:
                workers = set(nginx.processes()) - {nginx.pid}
                weigh(percent)
                subprocess.run([*command, "-s", "reload"], check=True)
                # The old worker answers what it has begun; only then may the server behind it go.
                until(partial(_ended, workers, nginx), "nginx's old worker to end")
                if percent < STEPS[-1]:
                    time.sleep(STEP_S)
            old.stop()

        yield Running(
            infer_url(f"127.0.0.1:{listen}"), update, lambda: [pid for child in children for pid in child.processes()]
        )


@contextmanager
def in_process(home: Path) -> Iterator[Running]:
    """(d) Load the second model into the same process, and let chance decide which one answers."""
    folders = {version: home / str(version) for version in (OLD, NEW)}
    for folder in folders.values():
        shutil.copytree(CHECKPOINT, folder)
    with _server(home, OLD, folders[OLD]) as server:
        address = f"127.0.0.1:{server.first_line()['port']}"

        def tell(what: str, **data: object) -> None:
            body = json.dumps({"version": NEW, **data}).encode()
            fetch(f"http://{address}/{what}", body, timeout_s=LOAD_TIMEOUT_S)

        def update() -> None:
            tell("load", folder=str(folders[NEW]))
            for percent in STEPS:
                tell("share", percent=percent)
                if percent < STEPS[-1]:
                    time.sleep(STEP_S)

        yield Running(infer_url(address), update, server.processes)


def _ended(workers: set[int], nginx: Child) -> bool:
    return workers.isdisjoint(nginx.processes())


def _server(home: Path, version: int, folder: Path) -> Child:
    # Module paths of the engine and of the benchmark: neither is installed.
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(BACKENDS / ENGINE)])}
    return Child(
        [sys.executable, "-m", "bench.compare.apiserver", str(version), str(folder)], home / "server.log", env=env
    )
