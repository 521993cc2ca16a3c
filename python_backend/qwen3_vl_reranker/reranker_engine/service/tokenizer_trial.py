"""Tries a version's tokenizer on long texts in a child process, before this process uses it.

The tokenizers library runs regular expressions that come with the checkpoint, and backtracks: on a bad one it takes
hours for a text, or panics. This cannot be told from the expression for sure, so it is tried, with the library that
will run it. The child is a fork, since the interpreter inside Triton's stub has no executable to start. The child
closes what it inherits, and kernel limits bound its time and memory.

This module imports nothing heavy: the trial runs while torch is imported.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import time
import warnings
from typing import TYPE_CHECKING, Any, Self

from reranker_engine.model.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

CPU_S = 10
"""Seconds of one core. Published tokenizers take one or two; a pattern of quadratic time takes a minute."""
WALL_S = 240.0
"""Limit in wall-clock time, on a busy machine, too."""
MEMORY_BYTES = 4 * 2**30
"""Address space, besides what the process has at its start."""
RUN, SHORT, LONG = 60, 2**12, 2**17
"""Characters of a text. ``RUN`` shows a time that doubles with each character. All repeated texts are tried at
``SHORT``, and those that took longest at ``LONG``, which shows quadratic time."""
LONGEST = 2
USUAL = (
    "a", "Z", "5", " ", "\n", "\r\n", "\t", "\xa0", "\u3000", ".", "'", "-", "_", "(", "$", "+", "/", "\0", "\u0301",
    "\u093f", "\u01c5", "\u02b0", "\xaa", "\xb2", "\u03b1", "\u0434", "\u05d0", "\u0627", "\u0915", "\u0e01", "\u4e2d",
    "\u3042", "\uac00", "\U0001f600", "\ue000",
    "the ", " \n", "'s", "aZ", "a5", "a.",
)  # fmt: skip
"""Texts repeat one of these: each kind of character that patterns distinguish, and some pairs."""
_PLAIN = re.compile(r"\\(?:[pP]\{[^}]*\}|[a-zA-Z])|(?P<text>[^\\\[\](){}|*+?^$.]+)|\\(?P<one>[^a-zA-Z])")
"""Plain characters in a pattern. Ranges and names of groups are among them, which does no harm."""
END = "="
"""Begins the last line that the child writes; each line before it names a text."""
ADVICE = "take the tokenizer that the model was published with"


class TokenizerTrial:
    """A trial in progress. As a context manager it ends the child at its exit.

    Attributes:
        seconds: How long ``finish`` waited.
    """

    def __init__(self, folder: Path, tried: Callable[[Path], Iterator[str]] | None = None) -> None:
        """Start the trial of a checkpoint's tokenizer. ``tried`` yields the name of each text before it."""
        self._folder = folder
        self.seconds = 0.0
        self._reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # locks of other threads: the child uses none
            self._child: int | None = os.fork()
        if not self._child:
            _run(folder, writer, tried or tried_texts)
        os.close(writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._reader)
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self._end()

    def finish(self) -> None:
        """Wait for the trial's end.

        Raises:
            CheckpointError: The tokenizer would harm the engine. Other faults are reported when it is loaded.
        """
        begun = time.monotonic()
        lines = self._lines(begun + WALL_S)
        self.seconds = time.monotonic() - begun
        if lines is None:
            raise self._refused(f"its trial did not end within {WALL_S:g} s")
        status = self._end()
        if lines and lines[-1].startswith(END):
            if problem := lines[-1].removeprefix(END):
                raise self._refused(problem)
            return
        where = f" with the text {lines[-1]}" if lines else ""
        number = os.waitstatus_to_exitcode(status)
        if number in {-signal.SIGXCPU, -signal.SIGKILL}:
            raise self._refused(f"its trial{where} took more than {CPU_S} s, as clients' texts would")
        raise self._refused(f"its trial{where} ended the process ({number}), as clients' texts would")

    def _refused(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self._folder}: tokenizer.json cannot be used: {problem}; {ADVICE}")

    def _lines(self, until: float) -> list[str] | None:
        """The lines that the child wrote until its end; None: it did not end in time."""
        found = bytearray()
        while True:
            ready, _, _ = select.select([self._reader], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self._reader, 2**16)
            if not piece:
                return found.decode("utf-8", "replace").splitlines()
            found += piece

    def _end(self) -> int:
        child, self._child = self._child, None
        return os.waitpid(child or 0, 0)[1]


def _run(folder: Path, writer: int, tried: Callable[[Path], Iterator[str]]) -> None:
    """The child process; it must never return from here."""
    try:
        with open(writer, "w", encoding="utf-8", closefd=False) as told:
            told.write(END + _problem(folder, writer, tried) + "\n")
    finally:
        os._exit(0)


def _problem(folder: Path, writer: int, tried: Callable[[Path], Iterator[str]]) -> str:
    name = ""
    try:
        _limit(writer)
        for name in tried(folder):
            os.write(writer, name.encode() + b"\n")
    except CheckpointError as error:
        # Loading reports it again, except for a lack of memory, which is not limited there.
        return "" if not isinstance(error.__cause__, MemoryError) else _cause(error.__cause__, name)
    except BaseException as error:  # noqa: BLE001 - a panic in Rust code is no Exception
        return _cause(error, name)
    return ""


def _cause(error: BaseException, name: str) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return f"the tokenizers library failed {f'with the text {name}' if name else 'to read it'} ({said})"


def _limit(keep: int) -> None:
    """Close the files, ports and output that the child inherited, and bound its time and memory."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.closerange(3, keep)
    os.closerange(keep + 1, 2**16)
    pages = int(open("/proc/self/statm", encoding="ascii").read().split()[0])  # noqa: SIM115, PTH123 - _exit closes it
    room = pages * resource.getpagesize() + MEMORY_BYTES
    for kind, wanted in ((resource.RLIMIT_AS, room), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):
        _, highest = resource.getrlimit(kind)
        most = wanted if highest == resource.RLIM_INFINITY else min(wanted, highest)
        resource.setrlimit(kind, (most, most))


def tried_texts(folder: Path) -> Iterator[str]:
    """Encode texts on which bad patterns take long; yields the name of each before it."""
    from reranker_engine.inference.tokenizer import TextTokenizer
    from reranker_engine.model.config import read_json

    units, words = pieces(read_json(folder / "tokenizer.json"))
    tokenizer = TextTokenizer(folder)
    # Oniguruma does not start to match if a literal of the pattern is missing in the text, so all are at its end.
    end = "!" + "".join(words)

    def seconds(unit: str, length: int) -> float:
        begun = time.process_time()
        tokenizer.encode(unit * (length // len(unit)) + end)
        return time.process_time() - begun

    took = {}
    for unit in units:
        yield f"{unit[:20]!r}, over and over"
        took[unit] = seconds(unit, SHORT)
    for first in words:
        for second in units:
            yield f"{first[:20]!r} and {second[:20]!r}, over and over"
            seconds(first + second, RUN * 2)
            tokenizer.encode(first + second * RUN + end)
    for unit in sorted(took, key=took.__getitem__, reverse=True)[:LONGEST]:
        yield f"{unit[:20]!r}, over and over, {LONG:,} characters"
        seconds(unit, LONG)


def pieces(settings: dict[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    """(what texts repeat, literals of the patterns)."""
    words: dict[str, None] = {}
    for pattern in _patterns([settings.get(name) for name in ("normalizer", "pre_tokenizer")]):
        for found in _PLAIN.finditer(pattern):
            text = found["text"] or found["one"] or ""
            words |= dict.fromkeys(part for part in (text, *text) if part)
    return tuple(dict.fromkeys((*USUAL, *words))), tuple(words)


def _patterns(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "Regex" and isinstance(value, str):
                yield value
            else:
                yield from _patterns(value)
    elif isinstance(part, list):
        for value in part:
            yield from _patterns(value)
