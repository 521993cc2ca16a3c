"""``make up``: ``ctl up`` on the demo checkpoints, in a repository of its own under ``.baton``.

With ``--traffic`` (``make up TRAFFIC=1``) a few clients ask four times a second, and every ten seconds a line tells
which versions answered them.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

from harness.control_plane import CTL
from harness.places import CHECKPOINTS, ENGINE, ROOT, STATE
from harness.traffic import Traffic, questions, rerankers

from baton.durable import make_private
from baton.push import push

RATE, CLIENTS = 4.0, 4
TELL_S = 10.0
GATEWAY_PORT = 8003
CURL = f"""curl http://127.0.0.1:{GATEWAY_PORT}/v1/rerank -H 'Content-Type: application/json' \\
  -d '{{"query": "red star", "documents": ["a blue ring", "there is a red star here"]}}'
With a picture:      curl http://127.0.0.1:{GATEWAY_PORT}/v1/rerank -F picture=@.baton/up/picture.png \\
  -F 'request={{"query": "a cyan cross", "documents": [{{"image": "attachment:picture"}}, "a red star"]}}'"""


def main() -> None:
    """Put the first version in place, if there is none yet; then become ``ctl up``, or run it beside the clients."""
    parser = argparse.ArgumentParser(prog="python -m demo.up", description=__doc__)
    parser.add_argument("--traffic", action="store_true", help="clients that ask all the while")
    traffic = parser.parse_args().traffic
    make_private(STATE)
    repository = STATE / "up" / "model_repository"
    (repository / ENGINE).mkdir(parents=True, exist_ok=True)
    if not any(entry.is_dir() for entry in (repository / ENGINE).iterdir()):
        push(CHECKPOINTS / "base", repository, ENGINE, label="v1.0")
    print(f"In another terminal: {os.path.relpath(CTL)} status --watch")
    print(
        f"A new version:       {os.path.relpath(CTL)} push demo/checkpoints/retrained --release retrained\n", flush=True
    )
    print(f"Ask it over HTTP:    {CURL}\n", flush=True)
    (STATE / "up" / "picture.png").write_bytes(picture())
    common = [CTL, "--config", str(ROOT / "demo" / "baton.toml"), "--state", str(STATE)]
    words = [*common, "up", "--repository", str(repository), "--gateway-port", str(GATEWAY_PORT)]
    if traffic:
        sys.exit(beside_clients(words, common))
    os.execv(CTL, words)


def picture() -> bytes:
    """A document of the golden set that is an image."""
    [(_, documents)] = questions(image=1)
    return base64.b64decode(documents[0]["image"].partition(",")[2])


def beside_clients(words: list[str], common: list[str]) -> int:
    """Run ``ctl up`` while clients ask what it serves; its exit code. Ctrl-C and SIGTERM reach it, and end both."""
    with subprocess.Popen(words) as up:
        # The terminal sends Ctrl-C to both; whoever ends this process alone means both, too.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: up.terminate())
        clients: Traffic | None = None
        while up.poll() is None:
            if clients is not None:
                tell(clients)
            elif (url := serving(common)) is not None:
                clients = Traffic(rerankers([f"grpc://{url}"], questions(text=4, image=4), CLIENTS), rate=RATE)
                clients.start()
            try:
                up.wait(TELL_S if clients is not None else 1.0)
            except subprocess.TimeoutExpired:
                continue
        if clients is not None:
            clients.stop()
        return up.returncode


def serving(common: list[str]) -> str | None:
    """Where a version answers clients by gRPC; None as long as none does."""
    asked = subprocess.run([*common, "--output", "json", "status"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return None
    status = json.loads(asked.stdout)
    [service], [server] = status["services"], status["servers"]
    return str(server["grpc"]) if service["phase"] == "steady" else None


def tell(clients: Traffic) -> None:
    requests = clients.taken()
    errors = [one.error for one in requests if one.error]
    versions = Counter(one.version for one in requests if not one.error)
    by = ", ".join(f"{count} by version {version}" for version, count in sorted(versions.items())) or "none answered"
    failed = f"; {len(errors)} failed, the last: {errors[-1]}" if errors else ""
    print(f"{time.strftime('%H:%M:%S')} clients' requests: {by}{failed}", flush=True)


if __name__ == "__main__":
    main()
