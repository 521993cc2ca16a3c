"""What Triton says of a load that failed, made short, and whether the machine is to blame: asked of a real Triton."""

from __future__ import annotations

import shutil

import pytest
from tests.support.toy import engine_config, make_checkpoint
from tests.support.triton import TOY_BACKENDS, running_triton

from baton.errors import TritonError
from baton.local.find import find_triton
from baton.triton.grpc import GrpcTriton
from baton.triton.words import MOST, cause, ended, machine, refused

MODEL = """class TritonPythonModel:
    def initialize(self, args):
        {}
    def execute(self, requests):
        return []
"""
FAILED, STATE = "load failed for model 'a': ", "is at UNAVAILABLE state"
TRACE = "\n\nAt:\n  model.py(1): f\n"
FAULTS = {
    "the backend is not there": (None, "unable to find backend library for backend 'b0'", "lacks the backend `b0`"),
    "a module is not there": (
        "import torch_nowhere\n",
        "ModuleNotFoundError: No module named 'torch_nowhere'",
        "lacks `torch_nowhere`",
    ),
    "a module of a package is not there": (
        MODEL.format("import nowhere.models.x"),
        "ModuleNotFoundError: No module named 'nowhere'",
        "lacks `nowhere`",
    ),
    "a module is another one": (
        "from json import nothing_such\n",
        "ImportError: cannot import name 'nothing_such' from 'json'",
        "do not fit each other",
    ),
    "a library is not there": (
        MODEL.format("import ctypes; ctypes.CDLL('libcudnn_nowhere.so.9')"),
        "OSError: libcudnn_nowhere.so.9: cannot open shared object file: No such file or directory",
        "LD_LIBRARY_PATH",
    ),
    "the backend is broken": ("def (\n", "SyntaxError: invalid syntax (model.py, line 1)", "Install the backend anew"),
    "no memory": (MODEL.format("bytearray(1 << 60)"), "MemoryError", "too little free memory"),
    "no memory on the GPU": (
        MODEL.format("raise RuntimeError('CUDA error: out of memory')"),
        "RuntimeError: CUDA error: out of memory",
        "too little free memory",
    ),
    "no room on the disk": (
        MODEL.format("raise OSError(28, 'No space left on device', '/x')"),
        "OSError: [Errno 28] No space left on device: '/x'",
        "disk of this server is full",
    ),
    "no file descriptors": (
        MODEL.format("raise OSError(24, 'Too many open files', '/x')"),
        "OSError: [Errno 24] Too many open files: '/x'",
        "ulimit -n",
    ),
    "the version itself": (
        MODEL.format("raise ValueError('config.json: 3 layers, the weights have 4')"),
        "ValueError: config.json: 3 layers, the weights have 4",
        "",
    ),
    "the version's process ends": (
        MODEL.format("import os; os._exit(3)"),
        "Stub process 'm11_0_0' is not healthy.",
        "",
    ),
}


@pytest.mark.triton
def test_the_words_of_a_real_triton(tmp_path):
    find_triton(None)
    backends, repository = tmp_path / "backends", tmp_path / "repository"
    shutil.copytree(TOY_BACKENDS, backends)
    for number, (code, _, _) in enumerate(FAULTS.values()):
        make_checkpoint(repository / f"m{number}" / "1")
        config = engine_config(f"m{number}", [1], backend=f"b{number}")
        (repository / f"m{number}" / "config.pbtxt").write_text(config)
        if code is not None:
            (backends / f"b{number}").mkdir()
            (backends / f"b{number}" / "model.py").write_text(code)
    gpu = engine_config("gpu", [1]).replace("KIND_CPU", "KIND_GPU")
    environment = f'parameters {{ key: "EXECUTION_ENV_PATH" value: {{ string_value: "{tmp_path}/nowhere.tar.gz" }} }}\n'
    for name, config in (("gpu", gpu), ("environment", engine_config("environment", [1]) + environment)):
        make_checkpoint(repository / name / "1")
        (repository / name / "config.pbtxt").write_text(config)

    with running_triton(tmp_path, repository, backends=(backends,)) as running:
        server = GrpcTriton("one", running.grpc_url)

        def refused(name: str) -> TritonError:
            with pytest.raises(TritonError) as failed:
                server.load(name, 60.0)
            return failed.value

        for number, (what, (_, words, mend)) in enumerate(FAULTS.items()):
            error = refused(f"m{number}")
            assert str(error).startswith(words), what
            assert "\n" not in str(error)
            assert f"load failed for model 'm{number}'" in error.words, "all of it is kept"
            assert mend in machine(error.words) if mend else machine(error.words) == "", what
        assert "dmesg" in ended(error.words)
        error = refused("environment")
        assert "nowhere.tar.gz" in str(error)
        assert "environment that config.pbtxt names" in machine(error.words)
        error = refused("nobody")
        assert "config.pbtxt" in machine(error.words)
        if not shutil.which("nvidia-smi"):
            assert "nvidia-smi" in machine(refused("gpu").words)
        server.close()


@pytest.mark.parametrize(
    ("words", "short"),
    [
        ("", ""),
        ("Internal: Internal: x", "x"),
        (
            f"{FAILED}version 2 {STATE}: Internal: KeyError: 'x'{TRACE};version 3 {STATE}: Invalid argument: no.;",
            "version 2: KeyError: 'x'; version 3: no.",
        ),
        (
            f"Failed to process the request(s) for model instance 'a_0_0', message: ValueError: no{TRACE}",
            "ValueError: no",
        ),
        ("Traceback (most recent call last):\n  File m, line 1\n    x()\nb.Wrong: not\n", "b.Wrong: not"),
        ("many\nlines   of it", "many lines of it"),
        ("x" * 1000, "x" * MOST + "..."),
    ],
)
def test_the_cause(words, short):
    assert cause(words) == short


@pytest.mark.parametrize(
    "words",
    [
        "Request for unknown model: 'a' has no available versions",
        "ValueError: the weights do not fit: config.json has 3 layers",
        "at least one version must be available under the version policy of model 'a'",
        "KeyError: 'memory'",
        "Stub process 'a_0_0' is not healthy.",
    ],
)
def test_what_is_no_fault_of_the_machine(words):
    assert machine(words) == ""


def test_an_engine_that_refuses_for_want_of_time_or_room_is_alive():
    assert refused("in ensemble 'reranker', deadline: the request's timeout of 1 s is over") == "deadline"
    assert refused("busy: 8 requests are under way here, which is the limit") == "busy"
    assert refused("document 1: its text says that the line is busy") is None
