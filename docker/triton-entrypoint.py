#!/usr/bin/env python3
"""The entry point of the Triton image: tritonserver with an admin key, or nothing.

Whoever may load models on a Triton can have it run code of his own. So it starts only with a key in a file that nobody
else can read, and answers what :data:`baton.local.argv_secret.RESTRICTED` names to nobody without that key. The words
of the container's command are further options of ``tritonserver``.

It stays the container's first process: it hides the key from the process list, which the host's users see, too, hands
signals on, and reaps what Triton's own children leave.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from baton import secret
from baton.errors import BatonError, ConfigError
from baton.local.argv_secret import masked, restrictions, reveal
from baton.local.exec_wrapper import SHARED, wrapped_command

KEY_FILE = "BATON_ADMIN_KEY_FILE"
"""The variable that names the key's file."""
DEFAULT_KEY_FILE = "/run/secrets/admin.key"
OPTIONS = (
    "--model-repository=/models",
    # What is loaded is what Baton asks for.
    "--model-control-mode=explicit",
    # The configurations are complete; completing them would start each version's code twice.
    "--disable-auto-complete-config",
    # The strict one turns false during each load and drain.
    "--strict-readiness=false",
    "--metrics-config=summary_latencies=true",
)
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_MOUNT = (
    "On the host, `(umask 077; openssl rand -hex 32 > admin.key); sudo chown {user} admin.key` makes one; "
    '`-v "$PWD/admin.key:{path}:ro"` mounts it. The control plane needs the same key (admin_key_file).'
)


def main(words: Sequence[str]) -> int:
    """Runs Triton until it ends; its exit code, or 128 and the number of the signal that ended it.

    Raises:
        BatonError: nothing was started; the message says why and what to do.
    """
    command = [find_server(), *options(words)]
    key = read_key(Path(os.environ.get(KEY_FILE) or DEFAULT_KEY_FILE))
    server = start([*command, *restrictions(key)], key)
    while True:
        # Whatever loses its parent in a container becomes a child of the first process.
        pid, status = os.wait()
        if pid == server.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def options(words: Sequence[str]) -> list[str]:
    """The options of the server: ours, unless a word gives another value, and all words.

    Raises:
        ConfigError: a word is no option, as in the command of an image without this entry point.
    """
    given = {word.partition("=")[0] for word in words}
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(
                f"{word!r} is no option of tritonserver.",
                mend="Give only options after the image's name, each as one word: --load-model=NAME. "
                "For another program use `docker run --entrypoint`.",
            )
    return [*(option for option in OPTIONS if option.partition("=")[0] not in given), *words]


def find_server() -> str:
    """The path of ``tritonserver``. Raises ``ConfigError`` where the image has none."""
    found = shutil.which("tritonserver")
    if found is None:
        raise ConfigError("There is no tritonserver in PATH.", mend="Build on one of NVIDIA's Triton images.")
    return found


def read_key(path: Path) -> str:
    """The admin key. Raises ``ConfigError``: it is not there, is no secret, or others can read it."""
    try:
        return secret.read(path, "admin key")
    except ConfigError as error:
        raise ConfigError(
            f"Triton does not start without an admin key: everybody who reaches its ports could load a model, which "
            f"is code. {error.message}",
            mend=f"{error.mend} {_MOUNT.format(user=os.geteuid(), path=path)}",
        ) from None


def start(command: Sequence[str], key: str) -> subprocess.Popen[bytes]:
    """Triton's process, its key hidden where the kernel allows that. Signals of :data:`_HANDED_ON` go to it."""
    running: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        if not running:
            sys.exit(128 + number)  # what was begun ends with its parent
        running[-1].send_signal(number)

    for number in _HANDED_ON:
        signal.signal(number, hand_on)
    words, hidden = masked(command, key)
    me = os.getpid()
    running.append(
        subprocess.Popen(wrapped_command(words, parent=me, traced=True, memory=SHARED), env={**os.environ, **hidden})
    )
    if not reveal(running[-1].pid, hidden):
        running.pop().wait()
        print(
            "The admin key stays visible in the process list of this container and of its host, because no process "
            "may be traced here. Mount /proc with hidepid=2 where other users are on the host.",
            file=sys.stderr,
        )
        running.append(subprocess.Popen(wrapped_command(command, parent=me, memory=SHARED)))
    return running[-1]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BatonError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
