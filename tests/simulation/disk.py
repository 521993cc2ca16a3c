"""The repository and the journal on a real file system in memory, where each durable act may be the last one."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any
from unittest import mock

from tests.simulation.hands import Hands
from tests.support.rules import ALIAS, ENGINE, SPLITTER
from tritonclient.grpc import model_config_pb2

from baton import ownership
from baton.errors import RepositoryError
from baton.testing import ModelFiles
from baton.triton import config_file, pbtxt, repository
from baton.triton.key import Key
from baton.triton.repository import ServiceFiles

Act = Callable[[str], None]
"""Told of each durable act before it happens; may raise instead."""
Look = Callable[[], None]
"""Told of each look at a file before it happens; may raise instead."""

CONFIG = f"""name: "{ENGINE}"
backend: "toy"
max_batch_size: 8
input [ {{ name: "query" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ -1 ] }} ]
version_policy {{ specific {{ versions: [ 1 ] }} }}
"""


class ToldPath(PosixPath):
    """A path whose changes, and looks at it, are told before they happen."""

    act: Act = staticmethod(lambda _what: None)
    look: Look = staticmethod(lambda: None)

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        ToldPath.look()
        return super().stat(follow_symlinks=follow_symlinks)

    def iterdir(self) -> Any:
        ToldPath.look()
        return super().iterdir()

    def mkdir(self, *args: Any, **options: Any) -> None:
        if not self.exists():
            ToldPath.act(f"make {_short(self)}")
        super().mkdir(*args, **options)

    def replace(self, target: Any) -> Any:
        ToldPath.act(f"replace {_short(Path(target))}")
        return super().replace(target)

    def unlink(self, *, missing_ok: bool = False) -> None:
        if self.exists():
            ToldPath.act(f"remove {_short(self)}")
        super().unlink(missing_ok=missing_ok)

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:  # type: ignore[override]
        if "w" in mode:
            ToldPath.act(f"write {_short(self)}")
        else:
            ToldPath.look()
        return super().open(mode, *args, **options)


def _short(path: Path) -> str:
    return f"{Path(os.path.realpath(path.parent)).name}/{path.name}"  # also of a folder's descriptor


def _folder(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


FROZEN = (errno.EIO, errno.ETIMEDOUT, errno.ESTALE)
"""What calls end with on a network file system whose server is gone."""


@contextmanager
def told_files(act: Act, look: Look) -> Iterator[None]:
    """Every change to a :class:`ToldPath` is told; the same text is parsed once (protobuf's parser is pure Python)."""
    rmtree = shutil.rmtree

    def remove(path: Any, *, ignore_errors: bool = False) -> None:
        with contextlib.suppress(*[OSError] if ignore_errors else []):
            if path.exists():
                act(f"remove {_short(path)}")
            rmtree(Path(path))

    @contextmanager
    def follow(path: Any, at: int | None = None) -> Iterator[Any]:
        look()
        with real_follow(path, at) as found:
            yield found

    @contextmanager
    def new_file(name: str, at: int, mode: int) -> Iterator[Any]:
        act(f"write {_folder(at)}/{name}")
        with real_new_file(name, at, mode) as file:
            yield file

    def replace(name: Any, target: Any, *, dst_dir_fd: int | None = None, **where: Any) -> None:
        if dst_dir_fd is not None:
            act(f"replace {_folder(dst_dir_fd)}/{target}")
        real_replace(name, target, dst_dir_fd=dst_dir_fd, **where)

    real_follow, real_new_file, real_replace = ownership.follow, ownership.new_file, os.replace
    with (
        mock.patch.object(config_file, "follow", follow),
        mock.patch.object(config_file, "new_file", new_file),
        mock.patch.object(os, "replace", replace),
        mock.patch.object(ToldPath, "act", staticmethod(act)),
        mock.patch.object(ToldPath, "look", staticmethod(look)),
        mock.patch.object(repository, "shutil", mock.Mock(rmtree=remove)),
        mock.patch.object(pbtxt, "parse", _parse),
        mock.patch.object(pbtxt, "specific_versions", _specific_versions),
        mock.patch.object(pbtxt, "with_specific_versions", _with_specific_versions),
    ):
        yield


_real_parse, _real_specific, _real_with = pbtxt.parse, pbtxt.specific_versions, pbtxt.with_specific_versions


@functools.lru_cache(maxsize=5000)
def _parsed(text: str) -> Any:
    return _real_parse(text, Path("config.pbtxt"))


def _parse(text: str, _path: Path) -> Any:
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(_parsed(text))
    return config


@functools.lru_cache(maxsize=5000)
def _specific_versions(text: str, path: Path) -> frozenset[int]:
    return _real_specific(text, path)


@functools.lru_cache(maxsize=5000)
def _with_specific_versions(text: str, versions: frozenset[int], path: Path) -> str:
    return _real_with(text, versions, path)


class ToldFiles(ServiceFiles):
    """The real files of the service. ``check`` is told what is about to be written."""

    def __init__(self, root: Path, check: Callable[..., None], key: Key) -> None:
        super().__init__(ToldPath(root), ALIAS, ENGINE, key)
        self._check = check

    def policy(self) -> frozenset[int]:
        self._check("look", None)
        return super().policy()

    def set_policy(self, versions: frozenset[int]) -> None:
        self._check("policy", versions)
        super().set_policy(versions)

    def set_alias(self, version: int | None, *, split: bool = False) -> None:
        self._check("alias", version, split=split)
        super().set_alias(version, split=split)

    def set_splitter(self, stable: int | None) -> None:
        self._check("splitter", stable)
        super().set_splitter(stable)

    def _alias_text(self, engine: Any, version: int, *, split: bool) -> str:
        return _written(
            (ALIAS, version, split), lambda: super(ToldFiles, self)._alias_text(engine, version, split=split)
        )

    def _splitter_text(self, engine: Any, stable: int) -> str:
        assert self.key is not None
        key = (SPLITTER, stable, *self.key.parameters().values())
        return _written(key, lambda: super(ToldFiles, self)._splitter_text(engine, stable))


_texts: dict[Any, str] = {}


def _written(key: Any, write: Callable[[], str]) -> str:
    if key not in _texts:
        _texts[key] = write()
    return _texts[key]


class SeenFiles:
    """What lies there now, for the rules and the servers. Version folders live in memory: Baton never writes any.

    Where a person made a file unusable the rules see what it said before; a server reads what lies there.
    """

    def __init__(self, root: Path) -> None:
        self._plain = ServiceFiles(root, ALIAS, ENGINE)
        self.hands = Hands(root)
        self.folders: dict[int, str] = {}
        self.unexpected: dict[str, str] = {}
        self._known: tuple[frozenset[int], int | None, bool, int | None] | None = None
        self._before: tuple[frozenset[int], int | None, bool, int | None] = (frozenset({1}), None, False, None)

    def changed(self) -> None:
        self._known = None

    def _look(self) -> tuple[frozenset[int], int | None, bool, int | None]:
        if self._known is None:
            policy, alias, split, splitter = self._before
            unusable = self.hands.unusable
            policy = policy if unusable(ENGINE) else self._plain.policy()
            alias, split = (alias, split) if unusable(ALIAS) else self._plain.alias_and_split()
            splitter = splitter if unusable(SPLITTER) else self._plain.splitter()
            self._known = self._before = (policy, alias, split, splitter)
        return self._known

    def flip(self, version: int) -> None:
        """A person points the alias at a version."""
        self._plain.set_alias(version)
        self.changed()

    @property
    def policy(self) -> frozenset[int]:
        return self._look()[0]

    @property
    def alias(self) -> int | None:
        return self._look()[1]

    @property
    def split(self) -> bool:
        return self._look()[2]

    @property
    def splitter(self) -> int | None:
        return self._look()[3]

    def read(self, model: str) -> ModelFiles | None:
        """As a server reads it."""
        directory = self._plain.repository / model
        try:
            text = (directory / "config.pbtxt").read_text()
            policy, step, splits, rest = _model(text)
        except (OSError, RepositoryError):
            return None
        if model == ENGINE:
            return ModelFiles(policy, dict(self.folders), dict(self.unexpected), rest=rest)
        folders = {int(p.name): "" for p in directory.iterdir() if p.name.isdigit()}
        if splits is None:
            return ModelFiles(policy, folders, {}, step, rest=rest)
        return ModelFiles(policy, folders, {}, None, splits, rest)


@functools.lru_cache(maxsize=5000)
def _model(text: str) -> tuple[frozenset[int], tuple[str, int] | None, dict[str, str] | None, str]:
    """Policy, an ensemble's step, a splitter's parameters, and all the rest."""
    config = _parse(text, Path("config.pbtxt"))
    policy = frozenset(config.version_policy.specific.versions)
    steps = config.ensemble_scheduling.step
    step = (steps[0].model_name, int(steps[0].model_version)) if steps else None
    given = {name: value.string_value for name, value in config.parameters.items()}
    splits = given if "stable" in given else None
    config.ClearField("version_policy")
    config.ClearField("instance_group")
    return policy, step, splits, str(config)


class ToldConnection:
    """A connection to the journal that tells of each transaction before it begins."""

    def __init__(self, real: sqlite3.Connection, act: Act) -> None:
        self._real = real
        self._act = act

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "BEGIN IMMEDIATE":
            try:
                self._act("journal")
            except OSError:
                raise sqlite3.OperationalError("database or disk is full") from None
        return self._real.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
