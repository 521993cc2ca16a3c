"""The files of the model repository that Baton writes: the engine's version policy, the alias and the splitter.

The files on disk are the durable truth: a Triton that restarts does what they say. Each write is one atomic rename.
Not covered: telling Triton to load them.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from baton.durable import sync_directory
from baton.errors import RepositoryError, Unreadable
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, file_errors, held, read, write_atomically
from baton.triton.key import Key
from baton.verify.device import Placement
from baton.verify.names import version_of

CLEAR_TOKEN = "token"  # noqa: S105 - the name of a file
"""In the splitter's version folder: an older Baton wrote the token there, readable for everybody."""

SPLITTER_BACKEND = "splitter"
SPLITTER_VERSION = 1
CONTROL, REPORT = "baton_control", "baton_report"
"""The tensors of a control request and its report. The alias maps neither, so clients can't reach them."""


class ServiceFiles:
    """One service's part of the repository: ``<engine>/config.pbtxt``, and the whole of the alias and the splitter.

    ``key``: the splitter's key; not needed for reading alone.
    """

    def __init__(self, repository: Path, alias: str, engine: str, key: Key | None = None) -> None:
        self.repository = repository
        self.alias_name = alias
        self.engine_name = engine
        self.splitter_name = f"{alias}_splitter"
        self.key = key
        self.engine_dir = repository / engine
        self.alias_dir = repository / alias
        self.splitter_dir = repository / self.splitter_name

    def folder(self, version: int) -> Path:
        """The engine's folder of a version."""
        return self.engine_dir / str(version)

    def policy(self) -> frozenset[int]:
        """The versions that the engine's version policy on disk names.

        Raises:
            RepositoryError: the file can't be read or used, or its policy is not ``specific``.
        """
        return pbtxt.versions_of(self._engine(), self.engine_dir / CONFIG)

    def batches(self) -> bool:
        """Whether the engine's tensors, and so the splitter's, have a leading batch dimension."""
        path = self.engine_dir / CONFIG
        return bool(pbtxt.parse(self._read(path), path).max_batch_size > 0)

    def placement(self) -> Placement:
        """Where the engine's instances run, by its configuration, and in what type."""
        path = self.engine_dir / CONFIG
        engine = pbtxt.parse(self._read(path), path)
        kinds = model_config_pb2.ModelInstanceGroup
        groups = list(engine.instance_group) or [kinds(kind=kinds.KIND_AUTO)]
        words: dict[int, Literal["host", "gpu", "any"]] = {kinds.KIND_CPU: "host", kinds.KIND_AUTO: "any"}
        placed = {words.get(group.kind, "gpu") for group in groups}
        device: Literal["host", "gpu", "any"] = "gpu" if "gpu" in placed else "any" if "any" in placed else "host"
        counted = [group for group in groups if device == "host" or group.kind != kinds.KIND_CPU]
        divided = any(group.kind == kinds.KIND_MODEL for group in groups)
        parameters = {name: value.string_value.strip() for name, value in engine.parameters.items()}
        named = parameters.get("devices", "").split(",") if divided else []
        dtype, tokens = parameters.get("dtype", ""), parameters.get("max_batch_tokens", "")
        gpus = sorted(
            {gpu for group in groups for gpu in group.gpus} | {int(n) for n in named if n.strip().isdecimal()}
        )
        return Placement(
            device=device,
            gpus=tuple(gpus),
            # Of the GPU that gets the most. A group that names none has its count on each.
            count=max(
                sum(max(group.count, 1) for group in counted if not group.gpus or gpu in group.gpus)
                for gpu in gpus or [0]
            ),
            divided=divided,
            dtype=None if dtype in ("", "auto") else dtype,
            batch_tokens=int(tokens) if tokens.isdecimal() else None,
        )

    def doubts(self) -> str:
        """Why Triton may refuse the engine's config.pbtxt although Baton can read it, in a sentence, or nothing."""
        path = self.engine_dir / CONFIG
        return pbtxt.doubts(self._read(path), path)

    def set_policy(self, versions: frozenset[int]) -> None:
        """Write the engine's version policy; nothing else in the file changes, comments included."""
        path = self.engine_dir / CONFIG
        write_atomically(path, pbtxt.with_specific_versions(self._read(path), versions, path))

    def alias(self) -> int | None:
        """The engine version that the alias leads to, or None when there is no alias yet.

        While traffic is split that is the stable one.
        """
        return self.alias_and_split()[0]

    def split(self) -> bool:
        """Whether the alias leads to the splitter."""
        return self.alias_and_split()[1]

    def alias_and_split(self) -> tuple[int | None, bool]:
        """:meth:`alias` and :meth:`split` as one reading of the file tells them."""
        path = self.alias_dir / CONFIG
        text = read(path)
        if text is None:
            return None, False
        config = pbtxt.parse(text, path)
        steps, versions = config.ensemble_scheduling.step, config.version_policy.specific.versions
        step = (steps[0].model_name, steps[0].model_version) if len(steps) == 1 else None
        split = step == (self.splitter_name, SPLITTER_VERSION)
        # Nor can a file be used that Triton understands in another way than Baton does.
        if len(versions) != 1 or versions[0] < 1 or not (split or step == (self.engine_name, versions[0])):
            raise RepositoryError(
                f"{path} is not an alias that Baton wrote: it needs exactly one ensemble step, which leads to "
                f"{self.engine_name} with the model_version that the version policy names, or to {self.splitter_name}.",
                mend=f"Remove the folder {self.alias_dir} and Baton writes it anew, or give the service another name.",
            )
        return int(versions[0]), split

    def set_alias(self, version: int | None, *, split: bool = False) -> None:
        """Point the alias at an engine version, directly or through the splitter; None removes the alias's file.

        The directory of the new number is made before the file that names it, and :meth:`tidy_alias` removes the old
        one later: a Triton that restarts at any moment finds a pair that works.
        """
        path = self.alias_dir / CONFIG
        with file_errors(path):
            if version is None:
                with held(self.alias_dir) as folder:
                    (folder / CONFIG).unlink(missing_ok=True)
                    sync_directory(folder)
                return
            engine = self._engine()
            self.alias_dir.mkdir(parents=True, exist_ok=True)
            with held(self.alias_dir) as folder:
                (folder / str(version)).mkdir(exist_ok=True)
                sync_directory(folder)
        write_atomically(path, self._alias_text(engine, version, split=split))

    def alias_text_for(self, engine: str, version: int) -> str:
        """What :meth:`set_alias` would write for an engine with that ``config.pbtxt``."""
        return self._alias_text(pbtxt.parse_engine(engine, self.engine_dir / CONFIG), version, split=False)

    def tidy_alias(self) -> None:
        """Remove the version directories of the alias that its file no longer names.

        Baton made them, and empty. What has something in it is somebody's, and stays.
        """
        current = self.alias()
        with file_errors(self.alias_dir):
            if not self.alias_dir.is_dir():
                return
            with held(self.alias_dir) as folder:
                for entry in folder.iterdir():
                    if entry.is_dir() and not entry.is_symlink() and version_of(entry.name) not in {None, current}:
                        with suppress(OSError):
                            entry.rmdir()

    def splitter(self) -> int | None:
        """The stable version that the splitter's files name; None without files of Baton's."""
        stable = self._splitter_parameters().get("stable", "")
        return version_of(stable)

    def keyed(self) -> bool:
        """Whether the splitter's files have the present key and limits, as :meth:`set_splitter` would write them.

        They don't after an upgrade, a changed configuration or a lost state directory.
        """
        mine, clear = {} if self.key is None else self.key.parameters(), self._clear_token()
        try:
            return mine.items() <= self._splitter_parameters().items() and not clear.exists()
        except OSError as error:  # a network file system whose server is gone
            raise Unreadable(f"{clear} can't be looked at: {error.strerror}.") from None

    def set_splitter(self, stable: int | None) -> None:
        """Write the splitter's files for a new token; None removes them.

        The files hold a hash of the token, and the most that the splitter may be asked for. The token is written first,
        and a token that an older Baton left in clear is removed last: if this stops in the middle, the files don't fit
        the token, and are written again.
        """
        path = self.splitter_dir / CONFIG
        if stable is not None and self.key is not None:
            self.key.renew()
        with file_errors(self.splitter_dir):
            if stable is None:
                with suppress(FileNotFoundError), held(self.splitter_dir) as folder:
                    (folder / CONFIG).unlink(missing_ok=True)
                shutil.rmtree(self.splitter_dir, ignore_errors=True)
                return
            (self.splitter_dir / str(SPLITTER_VERSION)).mkdir(parents=True, exist_ok=True)
            sync_directory(self.splitter_dir)
        write_atomically(path, self._splitter_text(self._engine(), stable))
        with file_errors(self.splitter_dir):
            self._clear_token().unlink(missing_ok=True)

    def token(self) -> str:
        """The token that every control request must carry."""
        assert self.key is not None  # noqa: S101 - who only reads sends no control requests
        return self.key.token

    def _clear_token(self) -> Path:
        return self.splitter_dir / str(SPLITTER_VERSION) / CLEAR_TOKEN

    def _splitter_parameters(self) -> dict[str, str]:
        path = self.splitter_dir / CONFIG
        text = read(path)
        config = None if text is None else pbtxt.parse(text, path)
        if config is None or config.backend != SPLITTER_BACKEND:
            return {}
        return {name: value.string_value for name, value in config.parameters.items()}

    def _engine(self) -> model_config_pb2.ModelConfig:
        path = self.engine_dir / CONFIG
        return pbtxt.parse_engine(self._read(path), path)

    def _splitter_text(self, engine: model_config_pb2.ModelConfig, stable: int) -> str:
        config = model_config_pb2.ModelConfig(
            name=self.splitter_name, backend=SPLITTER_BACKEND, max_batch_size=engine.max_batch_size
        )
        for tensor in engine.input:
            # The alias checks that required inputs are there; a control request has none of them.
            config.input.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, optional=True)
        config.input.add(name=CONTROL, data_type=model_config_pb2.TYPE_STRING, dims=[1], optional=True)
        for tensor in engine.output:
            config.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        config.output.add(name=REPORT, data_type=model_config_pb2.TYPE_STRING, dims=[1])
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
        config.version_policy.specific.versions.append(SPLITTER_VERSION)
        config.parameters["engine"].string_value = self.engine_name
        config.parameters["stable"].string_value = str(stable)
        for name, value in ({} if self.key is None else self.key.parameters()).items():
            config.parameters[name].string_value = value
        head = f"# Written by Baton while traffic of {self.alias_name} is split.\n"
        return head + str(text_format.MessageToString(config))

    def _alias_text(self, engine: model_config_pb2.ModelConfig, version: int, *, split: bool) -> str:
        config = model_config_pb2.ModelConfig(
            name=self.alias_name, platform="ensemble", max_batch_size=engine.max_batch_size
        )
        for tensor in engine.input:
            copied = config.input.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            copied.optional = tensor.optional
        for tensor in engine.output:
            config.output.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        config.version_policy.specific.versions.append(version)
        step = config.ensemble_scheduling.step.add(
            model_name=self.splitter_name if split else self.engine_name,
            model_version=SPLITTER_VERSION if split else version,
        )
        for tensor in engine.input:
            step.input_map[tensor.name] = tensor.name
        for tensor in engine.output:
            step.output_map[tensor.name] = tensor.name
        way = f", by way of {self.splitter_name}" if split else ""
        leads = f"{self.engine_name} version {version}{way}"
        head = f"# Written by Baton: the alias {self.alias_name} leads to {leads}.\n"
        return head + str(text_format.MessageToString(config))

    def _read(self, path: Path) -> str:
        text = read(path)
        if text is None:
            raise RepositoryError(
                f"{path} does not exist.",
                mend="Write the engine's config.pbtxt; or correct `repository` or the service's `engine` in the "
                "configuration.",
            )
        return text
