"""Follows the commands that a page shows, as a reader does: in order, in a shell, and looks for what the page says.

What counts in a page:

- A block ``sh``, ``bash`` or ``console`` holds commands. In ``console`` they begin with ``$``, and the other lines are
  printed. A block ``text`` under the same heading shows what the last command before it prints.
- A block with ``title="NAME"`` is a file, which the reader writes.
- A paragraph ``*Not run by our tests: WHY.*`` stands before a block that is passed over.

A command that stays in the foreground (:data:`STAYS`) goes on in its terminal, and what follows is typed into another
one, which begins where the first one began. A page's ``ctl status`` shows a moment: it is asked until that has come.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from harness.places import ROOT
from harness.waiting import Failed, until
from markdown_it import MarkdownIt

from baton.local import procfs

DOCS = ROOT / "docs"
SHELL = ("sh", "bash", "console")
MARK = re.compile(r"\*?Not run by our tests: (?P<why>.+?)\.?\*?")
STAYS = re.compile(r"(\S*/)?(ctl (up|serve)\b|ctl status --watch|make up\b)")
ASKED_AGAIN = re.compile(r"(\S*/)?ctl status(?! --watch)")
FINDS = re.compile(r"(\S*/)?ctl doctor\b")
"""Ends with 1 where it finds something on this machine: that is no fault of the page."""
TITLE = re.compile(r'\btitle="(?P<name>[^"]+)"')
LEFT_OUT = "..."
"""At the end of a line, or alone: what the page does not show."""


@dataclass(frozen=True)
class Step:
    """One command of a page, or one file that its reader writes."""

    page: Path
    heading: str
    """As its anchor."""
    line: int
    command: str = ""
    file: str = ""
    text: str = ""
    """What is written into ``file``."""
    prints: tuple[str, ...] = ()
    not_run: str = ""
    """Why the tests pass it over."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}: {self.command or self.file}"


def steps(page: Path) -> list[Step]:
    """All commands and files of a page, in its order."""
    found: list[Step] = []
    heading, mark, seen = "", "", dict[str, int]()
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline":
            if before is not None and before.type == "heading_open":
                heading = _slug(token.content, seen)
            match = MARK.fullmatch(" ".join(token.content.split()))
            mark = match["why"] if match else ""
        elif token.type in ("fence", "code_block"):
            kind, _, options = token.info.strip().partition(" ")
            line = (token.map or [0])[0] + 1
            if title := TITLE.search(options):
                found.append(Step(page, heading, line, file=title["name"], text=token.content, not_run=mark))
            elif kind in SHELL:
                listed = _console(token.content) if kind == "console" else _script(token.content)
                found += [
                    Step(page, heading, line + at, command=command, prints=printed, not_run=mark)
                    for at, command, printed in listed
                ]
            elif kind == "text" and not mark and found and found[-1].heading == heading and found[-1].command:
                last = found.pop()
                found.append(_printing(last, (*last.prints, *token.content.splitlines())))
            mark = ""
    return found


def section(page: str, *headings: str) -> list[Step]:
    """The steps of a page of ``docs/``; with headings (anchors), those that stand right under one of them."""
    there = steps(DOCS / page)
    lost = [name for name in headings if name not in {step.heading for step in there}]
    if lost:
        raise Failed(f"docs/{page} has no commands under {', '.join(lost)}.")
    return [step for step in there if not headings or step.heading in headings]


def _printing(step: Step, lines: tuple[str, ...]) -> Step:
    return Step(step.page, step.heading, step.line, command=step.command, prints=lines, not_run=step.not_run)


def _slug(words: str, seen: dict[str, int]) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words).replace("`", "").strip().lower()
    slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
    seen[slug] = seen.get(slug, -1) + 1
    return slug if not seen[slug] else f"{slug}-{seen[slug]}"


def _script(text: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """The commands of a block: one a line, with the lines that it goes on in."""
    held: list[str] = []
    begin, until_word = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not held:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            begin = number
        held.append(line)
        if until_word:
            if line.strip() != until_word:
                continue
            until_word = ""
        elif here := re.search(r"<<-?\s*['\"]?(\w+)", line):
            until_word = here[1]
            continue
        elif not _whole("\n".join(held)):
            continue
        yield begin, "\n".join(held), ()
        held = []
    if held:
        raise Failed(f"A command does not end: {held}")


def _whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:  # an open quotation, or a line that goes on
        return False
    return True


def _console(text: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    begin, command, printed = 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("$ "):
            if command:
                yield begin, command, tuple(printed)
            begin, command, printed = number, line[2:], []
        elif line.startswith("> ") and not printed:
            command += "\n" + line[2:]
        else:
            printed.append(line)
    if command:
        yield begin, command, tuple(printed)


# What a page claims, and what was printed.

_SHAPES = (
    (r"\b\d+m \d+s\b|\b\d[\d.,]* ?(?:ms|s|min)\b", "TIME"),
    (r"\b\d{4}-\d\d-\d\d[ T]?[\d:.,Z]*|\b\d\d:\d\d:\d\d\b", "WHEN"),
    (r"(?<![\w.])\d[\d.,]*(?:e-\d+)?", "N"),
)
_KEPT = re.compile(r"(?i)\b(?:version|versions|stable:|candidate:) \d+|\bv\d[\d.]*")
"""Numbers that are the point of a line."""


def shape(text: str) -> str:
    """A text without what differs from run to run: figures, times, and where a line ends."""
    text = " ".join(text.split())
    kept = _KEPT.sub(lambda hit: "".join(chr(ord(c) + 0xE000) if c.isdigit() else c for c in hit[0]), text)
    for pattern, instead in _SHAPES:
        kept = re.sub(pattern, instead, kept)
    return kept.strip()


def missing(claimed: Sequence[str], printed: str) -> str | None:
    """The first line that was not printed, in this order; None where all were."""
    rest = f" {shape(printed)} "
    for line in claimed:
        wanted = shape(line.removesuffix(LEFT_OUT))
        if not wanted:
            continue
        _before, there, rest = rest.partition(wanted)
        if not there:
            return line
        rest = f" {rest}"
    return None


# The terminal.


class Terminal:
    """A shell, into which commands are typed one after the other; ``text`` is all that it has shown."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.text, self.runs = "", ""
        self._count = 0
        self._shell = subprocess.Popen(
            # A test run in the background ignores Ctrl-C, and so would all that is typed here.
            ["env", "--default-signal=INT", "bash", "--noprofile", "--norc"],
            cwd=folder, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        assert self._shell.stdin is not None
        self._shell.stdin.write(b"trap : INT\n")  # as a shell that talks to a person: Ctrl-C ends what it runs
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._shell.stdout is not None
        for line in self._shell.stdout:
            self.text += line.decode(errors="replace")

    def type(self, command: str) -> int:
        """Give a command to the shell and wait for nothing; where in ``text`` its output begins."""
        assert self._shell.stdin is not None
        begin, self.runs = len(self.text), command
        self._count += 1
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null; ended=$?; echo; echo {self._end} $ended\n".encode())
        self._shell.stdin.flush()
        return begin

    @property
    def _end(self) -> str:
        return f"--end-of-{self._count}--"

    def ended(self, begin: int) -> tuple[int, str] | None:
        """The exit code and the output of what was typed; None while it runs."""
        if done := re.search(rf"\n{self._end} (\d+)\n", self.text[begin:]):
            return int(done[1]), self.text[begin : begin + done.start()]
        if self._shell.poll() is not None:
            raise Failed(f"The shell ended:\n{self.text[begin:]}")
        return None

    def wait(self, begin: int) -> tuple[int, str]:
        """Wait until what was typed has ended; see :meth:`ended`."""
        done: tuple[int, str] = until(lambda: self.ended(begin), f"the end of {self.runs}", every_s=0.05)
        return done

    def interrupt(self) -> None:
        """Ctrl-C: to all that the terminal runs."""
        os.killpg(self._shell.pid, signal.SIGINT)

    @property
    def folder(self) -> Path:
        """Where it is."""
        return Path(f"/proc/{self._shell.pid}/cwd").readlink()

    def close(self) -> None:
        procfs.kill_session(self._shell.pid)
        self._shell.wait()
        self._reader.join()
        for stream in (self._shell.stdin, self._shell.stdout):
            assert stream is not None
            stream.close()


@dataclass
class Reader:
    """Somebody who follows pages, in ``folder``.

    ``instead`` holds what this machine needs in the place of what the pages name: folders and ports. ``before`` is
    called with each step ahead of it, ``after`` once it was done.
    """

    folder: Path
    env: Mapping[str, str]
    instead: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[Step], None] = lambda _step: None
    after: Callable[[Step], None] = lambda _step: None
    commands: int = 0
    seconds: float = 0.0
    _terminals: list[tuple[Terminal, int, Step]] = field(default_factory=list)
    """Those that a command holds: where its output begins, and what it is."""
    _here: Terminal | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._terminals:
                self._end_last()
        finally:
            for terminal in self._all():
                terminal.close()

    def _all(self) -> list[Terminal]:
        return [*(held[0] for held in self._terminals), *([self._here] if self._here else [])]

    def follow(self, listed: Sequence[Step]) -> None:
        """Do the steps. Raises ``Failed`` at the first one that fails, or prints something else."""
        begin = time.monotonic()
        for step in listed:
            if not step.not_run:
                self.before(step)
                self._do(step)
                self.after(step)
        self.seconds += time.monotonic() - begin

    def stop(self) -> None:
        """Ctrl-C in every terminal that a command holds, the last one first. Raises ``Failed``, see :meth:`follow`."""
        while self._terminals:
            step, printed = self._end_last()
            self._compare(step, [self.mine(line) for line in step.prints], printed)

    def _end_last(self) -> tuple[Step, str]:
        terminal, begin, step = self._terminals[-1]
        terminal.interrupt()
        _, printed = terminal.wait(begin)
        terminal.close()
        self._terminals.pop()
        return step, printed

    def type(self, command: str) -> tuple[int, str]:
        """Something that no page says, in the present terminal; its exit code and output."""
        if self._here is None:
            self._here = Terminal(self.folder, self.env)
        return self._here.wait(self._here.type(command))

    def mine(self, text: str) -> str:
        """With this machine's folders and ports."""
        longest_first = sorted(self.instead, key=len, reverse=True)
        theirs = "|".join(map(re.escape, longest_first))
        return re.sub(theirs, lambda hit: self.instead[hit[0]], text) if theirs else text

    def _do(self, step: Step) -> None:
        if self._here is None:
            self._here = Terminal(self.folder, self.env)
        if step.file:
            path = self._here.folder / self.mine(step.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.mine(step.text))
            return
        self.commands += 1
        command, claimed = self.mine(step.command), [self.mine(line) for line in step.prints]
        terminal = self._here
        if STAYS.match(command):
            begin = terminal.type(command)
            self._terminals.append((terminal, begin, step))
            self._here = None
            # What a watch shows comes when it comes: nobody waits for it before the next command.
            if "--watch" not in command:
                until(lambda: self._shown(step, terminal, begin, claimed), f"what {step} prints", every_s=0.1)
            return
        code, printed = self.type(command)
        if ASKED_AGAIN.match(command) and missing(claimed, printed) is not None:

            def shown() -> bool:
                nonlocal code, printed
                code, printed = self.type(command)
                return missing(claimed, printed) is None

            until(shown, f"what {step} prints", instead=lambda: printed, every_s=1.0)
        if code not in (0, *([1] if FINDS.match(command) else [])) and not any(
            line.startswith("Error:") for line in claimed
        ):
            raise Failed(f"{step}\nended with exit code {code}:\n{printed}")
        self._compare(step, claimed, printed)

    def _compare(self, step: Step, claimed: Sequence[str], printed: str) -> None:
        if (line := missing(claimed, printed)) is not None:
            raise Failed(f"{step}\ndid not print this line:\n{line}\nIt printed:\n{printed}")

    def _shown(self, step: Step, terminal: Terminal, begin: int, claimed: Sequence[str]) -> bool:
        if (done := terminal.ended(begin)) is not None:
            raise Failed(f"{step}\nended by itself with exit code {done[0]}:\n{done[1]}")
        return missing(claimed, terminal.text[begin:]) is None
