"""Triton's error texts: the cause in one line, and whether the machine is at fault and not the version.

The texts matched here were seen on 24.10 with the python backend, unless a comment says otherwise. A text that is not
known is shown as it is, and the version is taken to be at fault.
"""

from __future__ import annotations

import re
from typing import Final

MOST: Final = 400
"""Characters of a cause. The whole text is kept in the journal."""
NO_POLL: Final = "failed to poll from model repository"
"""All that Triton says of a model whose files it can't use; what is wrong with them stands in its log."""
_VERSION: Final = re.compile(r"version (\d+) is at UNAVAILABLE state: ")
_STATUS: Final = re.compile(r"^(?:Internal|Invalid argument|Unavailable|Not found|Unknown|Unsupported): ")
_WRAPPED: Final = re.compile(r"^Failed to process the request\(s\) for model(?: instance)? '[^']*', message: ")

_REFUSED: Final = re.compile(r"(?:^|[\s,;:])(deadline|busy): ")

_MACHINE: Final = tuple(
    (re.compile(pattern), mend)
    for pattern, mend in (
        (
            r"unable to find backend library for backend '(?P<what>[^']+)'",
            "This server lacks the backend `{what}`. Copy it into the folder that --backend-directory names.",
        ),
        (
            r"No module named '(?P<what>[^'.]+)|(?:requires|not find) the (?P<lib>\S+) library",
            "The Python environment of this server's Triton lacks `{what}`. Install it there.",
        ),
        (
            r"ImportError: |undefined symbol|GLIBC\w*_[\d.]+' not found",
            "The Python packages of this server's Triton do not fit each other. Install them anew.",
        ),
        (
            r"\(model\.py, line \d+\)|no attribute 'TritonPythonModel'",
            "The backend's model.py on this server is damaged. Install the backend anew.",
        ),
        (
            r"(?P<what>\S+\.so[\w.]*): cannot open shared object file|libtriton_\S+: |unable to load shared library",
            "This server lacks a shared library. Install it, or add its folder to LD_LIBRARY_PATH.",
        ),
        (
            r"canonical path for (?P<what>\S+?)\.?$|EXECUTION_ENV_PATH|triton_python_backend_stub",
            "This server lacks the Python environment that config.pbtxt names. Copy it there.",
        ),
        (
            r"MemoryError|Cannot allocate memory|std::bad_alloc|\[Errno 12\]|[Oo]ut of memory|OutOfMemory",
            "This server has too little free memory for the version. End what else takes memory there.",
        ),
        (
            r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]",
            "A disk of this server is full. Make room there.",
        ),
        (
            r"shared memory (?:region|pool)|shm_open|/dev/shm",
            "The shared memory (/dev/shm) of this server is full. Make room there, or raise --shm-size.",
        ),
        (
            r"Too many open files|\[Errno 2[34]\]|can't start new thread|Resource temporarily unavailable",
            "Triton on this server has reached its limit of files or threads. Raise it (`ulimit -n`, `ulimit -u`).",
        ),
        (
            r"Input/output error|Stale file handle|\[Errno (?:5|116)\]",
            "A disk or a mount of this server fails. Repair it.",
        ),
        (
            r"no GPUs are available|no CUDA-capable device|CUDA (?:driver|error)|NVML|cudaError|no NVIDIA driver",
            "Triton can't use the GPU of this server. Run `nvidia-smi` there to see why.",
        ),
        (
            NO_POLL,
            "Triton can't use the model's config.pbtxt. Correct the line that Triton's log names.",
        ),
        (
            r"(?:not in the repository index|UNAVAILABLE: (?:unloaded)?|still READY) after the load call",
            "Triton did not see the change. If the files lie on NFS, mount it with `actimeo=1`. Else restart Triton.",
        ),
    )
)


def refused(words: str) -> str | None:
    """``deadline`` or ``busy`` where an engine says that it has no time or no room for a request; it is alive."""
    found = _REFUSED.search(words)
    return None if found is None else found[1]


def cause(words: str) -> str:
    """The cause in one line, out of Triton's whole text."""
    parts = _VERSION.split(words)
    if len(parts) < 3:  # noqa: PLR2004 - text, number, text
        return _cause(words)
    causes = [(int(version), _cause(text)) for version, text in zip(parts[1::2], parts[2::2], strict=True)]
    return causes[0][1] if len(causes) == 1 else "; ".join(f"version {version}: {text}" for version, text in causes)


def _cause(text: str) -> str:
    text = _WRAPPED.sub("", text.strip(" ;\n"))
    while (shorter := _STATUS.sub("", text)) != text:
        text = shorter
    text = text.split("\n\nAt:\n")[0]
    if "Traceback (most recent call last)" in text:
        # What was raised stands last; the lines of the trace are indented.
        raised = [line for line in text.splitlines() if line and not line[0].isspace()]
        text = raised[-1]
    text = " ".join(text.replace(": <EMPTY MESSAGE>", "").split())
    return text if len(text) <= MOST else f"{text[:MOST].rstrip()}..."


def machine(words: str) -> str:
    """What to do on the server, where that is at fault and not the version that did not load; else empty."""
    for pattern, mend in _MACHINE:
        found = pattern.search(words)
        if found is not None:
            named = {name: value for name, value in found.groupdict().items() if value}
            return mend.format(what=named.get("what") or named.get("lib") or "what it names")
    return ""


def ended(words: str) -> str:
    """What to look at when the process of a version ended by itself; empty when it did not."""
    if "is not healthy" not in words:
        return ""
    return "Its process ended. Triton's log may say why; `dmesg` shows whether the kernel killed it to free memory."
