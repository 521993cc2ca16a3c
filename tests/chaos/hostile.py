"""``python -m tests.chaos.hostile``: what a hostile client costs the others, on a real Triton with the real engine.

A few clients ask steadily. They are measured alone, then beside each of these, one after the other:

- *videos*: small files that decode to 2.1 billion pixels each, 14 at a time;
- *given up*: 200 requests at once whose clients are gone after 30 ms;
- *flood*: thousands of connections to the control plane's port that say nothing, or a byte a second;
- *slow ids*: while a good version rolls out, a client learns from the answers which request ids are led to the
  candidate, and sends its heaviest requests under those alone.

Prints how many requests of the steady clients failed, their p99 as a ratio to the same clients alone, and whether the
engine's process lived on. Ends with exit code 1 when one failed otherwise than by "busy", when the process was ended,
or when the good version was turned back.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from harness.command import few
from harness.places import CHECKPOINTS, ROOT, STATE
from harness.rig import Rig
from harness.traffic import Question, Request, Traffic, questions, rerankers
from harness.waiting import Failed, until
from rich.console import Console
from rich.table import Table

from baton.client import Reranker
from baton.errors import BatonError

RATE, CLIENTS = 4.0, 4
VIDEOS, GIVEN_UP, CONNECTIONS, IDS = 14, 200, 3000, 8
SIDE, FRAMES = 4096, 125
"""2.1 billion pixels, nearly as many as one video may have."""
BUSY = "busy: "
"""How the engine refuses at once what is one too many."""
CANDIDATE = 2
HELD_S = few(420.0, 15.0)
"""How long a rollout is waited for that a client holds."""
GONE_S = 0.03
HEAVY_DOCUMENTS = 40
ASKED = questions(text=4, image=4)
console = Console(highlight=False)


@dataclass(frozen=True)
class Seen:
    """What the steady clients saw while a hostile one was there."""

    answers: list[Request]
    errors: list[str]
    same: bool
    """Whether the process that serves is the same as before."""
    outcome: str = ""
    """What became of the version that rolled out meanwhile."""

    @property
    def p99_s(self) -> float:
        """99th percentile of the latencies in seconds; NaN without answers."""
        return float(np.percentile([a.latency_s for a in self.answers], 99)) if self.answers else float("nan")


class Hostile:
    """One kind of hostile client, in a process of its own: what it does must not slow down those who measure."""

    def __init__(self, kind: str, places: dict[str, str]) -> None:
        self._words = [sys.executable, "-m", "tests.chaos.hostile", "--send", kind, json.dumps(places)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if not self._line():
            raise Failed("the hostile client did not begin")
        return self

    def _line(self) -> str:
        return "" if self._process.stdout is None else self._process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self.got = self._line().strip() or "nothing"
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def be_hostile(kind: str, places: dict[str, str]) -> None:
    """Send until SIGTERM; print when it begins, and at the end what came of it, counted by its kind."""
    # Not an event that the handler sets: it may meet the main thread with the event's own lock in its hands.
    told, tell = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(tell, b"."))
    send, threads = KINDS[kind](places)
    lock, got = threading.Lock(), Counter[str]()

    def run() -> None:
        while True:
            came = send()
            with lock:
                got[came] += 1

    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    print("begun", flush=True)
    os.read(told, 1)
    with lock:
        print(", ".join(f"{count} {came}" for came, count in sorted(got.items())), flush=True)


def film() -> bytes:
    """An MP4 file of ``FRAMES`` frames of one colour, ``SIDE`` pixels square: some ten kB."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "51", "g": "250"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(SIDE, SIDE, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for number in range(FRAMES):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def asks(url: str, timeout_s: float, *content: Any, media: list[bytes] | None = None) -> Callable[[], str]:
    """One request by a client of its own; what came of it, in a word."""

    def send() -> str:
        query, documents = content
        try:
            with Reranker(url, timeout_s=timeout_s) as client:
                client.rank(query, documents, media=media)
        except BatonError as error:
            return type(error).__name__
        return "answered"

    return send


def longest() -> Question:
    """The question with the most documents."""
    return max(ASKED, key=lambda one: len(one[1]))


def videos(places: dict[str, str]) -> tuple[Callable[[], str], int]:
    url, document = f"grpc://{places['grpc']}", {"video": {"media": 0}}
    return asks(url, 60.0, "a red bicycle", [document], media=[film()]), VIDEOS


def given_up(places: dict[str, str]) -> tuple[Callable[[], str], int]:
    return asks(f"grpc://{places['grpc']}", GONE_S, *longest()), few(GIVEN_UP, 50)


def flood(places: dict[str, str]) -> tuple[Callable[[], str], int]:
    host, port = places["console"].split("//")[1].split(" ")[0].split("/")[0].split(":")
    held: list[socket.socket] = []
    wanted = few(CONNECTIONS, 500)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def connect() -> str:
        if len(held) >= wanted:
            for one in held[::2]:
                with suppress(OSError):
                    one.send(b"G")
            time.sleep(1.0)
            return "rounds of a byte each"
        one = socket.socket()
        one.settimeout(0.0)  # does not wait for the handshake
        try:
            one.connect((host, int(port)))
        except BlockingIOError:
            held.append(one)
        except OSError as error:
            one.close()
            return type(error).__name__
        return "connections begun"

    return connect, 1


def slow_ids(places: dict[str, str]) -> tuple[Callable[[], str], int]:
    query, documents = longest()
    light, heavy = documents[:1], (list(documents) * HEAVY_DOCUMENTS)[:HEAVY_DOCUMENTS]
    ids: list[str] = []

    def send() -> str:
        try:
            with Reranker(f"grpc://{places['grpc']}", timeout_s=60.0) as client:
                if len(ids) < IDS:
                    name = uuid.uuid4().hex
                    if client.rank(query, light, request_id=name).version == CANDIDATE:
                        ids.append(name)
                    return "light"
                name = ids[int(time.monotonic() * 1000) % len(ids)]
                met = client.rank(query, heavy, request_id=name).version == CANDIDATE
                return "heavy" if met else "heavy elsewhere"
        except BatonError as error:
            return type(error).__name__

    return send, 1


KINDS = {"videos": videos, "given up": given_up, "flood": flood, "slow ids": slow_ids}


def steady(rig: Rig, seconds: float, kind: str = "") -> Seen:
    """The steady clients' answers, alone or beside a hostile one; for ``seconds``, or to the end of a rollout."""
    before = rig.stubs(1)
    traffic = Traffic(rerankers(rig.urls, ASKED, CLIENTS), rate=RATE)
    outcome = ""
    with Hostile(kind, rig.places) if kind else nullcontext() as hostile:
        traffic.start()
        try:
            if kind == "slow ids":
                outcome = rollout(rig)
            elif kind == "flood":
                time.sleep(seconds)
                # The face of the person who looks for what is wrong answers all the while.
                rig.ctl("status")
            else:
                time.sleep(seconds)
        finally:
            traffic.stop()
    if hostile is not None:
        console.print(f"{kind}: {hostile.got}{'; the rollout: ' if outcome else ''}{outcome}")
    # The old version leaves at the end of a rollout.
    return Seen(traffic.answers, traffic.errors, bool(outcome) or before == rig.stubs(1), outcome)


def rollout(rig: Rig) -> str:
    """Roll out a version with the same weights; its outcome, or the phase in which it serves, or stands."""
    folder = rig.home / "made" / str(CANDIDATE)
    shutil.copytree(CHECKPOINTS / "base", folder)
    rig.drop(folder, CANDIDATE)

    def told() -> str:
        row = rig.row(CANDIDATE)
        if row is None:
            return ""
        phase = rig.service()["phase"]
        return str(row["outcome"] or (phase if phase in ("baking", "waiting") else ""))

    deadline = time.monotonic() + HELD_S
    while not (outcome := told()) and time.monotonic() < deadline:
        time.sleep(1.0)
    return outcome or f"held in {rig.service()['phase']} as long as the client went on"


TURNED_BACK = ("rolled_back", "rejected", "aborted")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=few(30.0, 4.0), help="of each part (default: 30)")
    parser.add_argument("--only", choices=KINDS, help="one kind of hostile client")
    parser.add_argument("--send", nargs=2, metavar=("KIND", "PLACES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        be_hostile(options.send[0], json.loads(options.send[1]))
        return 0
    kinds = [options.only] if options.only else list(KINDS)
    broken: list[str] = []
    table = Table(title="Steady clients beside a hostile one", title_justify="left")
    for column in ("hostile client", "requests", "failed", "p99 ms", "of alone", "engine's process"):
        table.add_column(column, justify="left" if column == "hostile client" else "right")
    try:
        with Rig(STATE / "hostile", ROOT / "demo" / "baton.toml") as rig:
            (rig.home / "made").mkdir()
            shutil.copytree(CHECKPOINTS / "base", rig.home / "made" / "1")
            rig.drop(rig.home / "made" / "1", 1)
            rig.rest(1)
            alone = steady(rig, options.seconds)
            _row(table, "none", alone, alone)
            for kind in kinds:
                seen = steady(rig, options.seconds, kind)
                _row(table, kind, seen, alone)
                broken += _broken(kind, seen)
                # What the hostile client left behind is done before the next part is measured.
                until(lambda: not steady(rig, 2.0).errors, "the clients to be answered again")
    except Failed as error:
        broken.append(str(error))
    console.print(table)
    for line in broken:
        console.print(f"[red]✖ {line}[/red]", soft_wrap=True)
    return 1 if broken else 0


def _row(table: Table, name: str, seen: Seen, alone: Seen) -> None:
    sent, failed = len(seen.answers) + len(seen.errors), len(seen.errors)
    process = "the same" if seen.same else "ended"
    ratio = seen.p99_s / alone.p99_s
    table.add_row(name, f"{sent}", f"{failed}", f"{seen.p99_s * 1000:.0f}", f"{ratio:.2f} x", process)


def _broken(name: str, seen: Seen) -> list[str]:
    broken = []
    # Where more is asked than fits, the engine says so to whoever comes: it does not tell clients apart.
    failed = [text for text in seen.errors if BUSY not in text]
    if failed:
        broken.append(f"{name}: {len(failed)} requests of the steady clients failed, the last: {failed[-1]}")
    if not seen.same:
        broken.append(f"{name}: the engine's process was ended")
    if seen.outcome in TURNED_BACK:
        broken.append(f"{name}: a version with the same weights was turned back: {seen.outcome}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
