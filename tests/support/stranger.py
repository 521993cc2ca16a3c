"""Another user of the machine, who reads what lies in a model repository and tries to steer the splitter with it.

    python -m tests.support.stranger REPOSITORY GRPC SPLITTER ROUTE

Run by root, it becomes ``nobody`` once everything is imported. It tries every word of every file that it can read, and
of what Triton tells of the splitter, as the token, and prints one JSON object: how many ``files`` it read and ``words``
it tried, those that were ``taken``, and the different ``refusals``.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

WORD = re.compile(rb"[A-Za-z0-9_+/=.-]{16,128}")
LARGEST = 1 << 20
"""Of a larger file only so much is read: those are weights."""


def become_nobody() -> None:
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def contents(repository: Path) -> Iterator[bytes]:
    for folder, _, names in os.walk(repository):
        for name in names:
            try:
                with (Path(folder) / name).open("rb") as file:
                    yield file.read(LARGEST)
            except PermissionError:
                continue


def attempt(client: triton.InferenceServerClient, splitter: str, token: str, route: object) -> str:
    """Why the splitter refuses; an empty text when it does not."""
    tensor = triton.InferInput("baton_control", [1, 1], "BYTES")
    asked = json.dumps({"token": token, "route": route}).encode()
    tensor.set_data_from_numpy(np.array([[asked]], dtype=np.object_))
    try:
        client.infer(splitter, [tensor], outputs=[triton.InferRequestedOutput("baton_report")], client_timeout=60.0)
    except InferenceServerException as error:
        return str(error)
    return ""


def main(repository: str, url: str, splitter: str, route: str) -> None:
    if os.geteuid() == 0:
        become_nobody()
    read = list(contents(Path(repository)))
    with triton.InferenceServerClient(url) as client:
        told = str(client.get_model_config(splitter)).encode()
        words = sorted({word.decode() for text in (*read, told) for word in WORD.findall(text)})
        answers = {word: attempt(client, splitter, word, json.loads(route)) for word in words}
    found = {
        "files": len(read),
        "words": len(words),
        "taken": [word for word, why in answers.items() if not why],
        "refusals": sorted({why for why in answers.values() if why}),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
