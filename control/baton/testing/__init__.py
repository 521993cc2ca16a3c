"""A Triton server in memory, with faults to order: for tests of Baton, of probes and of other plug-ins.

Nothing else in Baton imports this package. Example: a version that fails to load

    from baton.testing import Behaviour, DiskRepository, FakeTriton

    server = FakeTriton("a", DiskRepository(repository), clock=lambda: now)
    server.load("my_engine", timeout_s=10.0)  # reads my_engine/config.pbtxt and its version folders
    server.infer("my_engine", 1, inputs, timeout_s=1.0)

    server.versions[2] = Behaviour(load_error="out of memory")
    server.load("my_engine", timeout_s=10.0)  # TritonError, in Triton's words

``docs/reference/testing.md`` shows how to test a probe with it.
"""

from baton.testing.behaviour import SIGNATURE, Behaviour, Call
from baton.testing.files import DiskRepository, ModelFiles, RepositoryView
from baton.testing.splitter import FakeSplitter
from baton.testing.triton import FakeTriton

__all__ = [
    "SIGNATURE",
    "Behaviour",
    "Call",
    "DiskRepository",
    "FakeSplitter",
    "FakeTriton",
    "ModelFiles",
    "RepositoryView",
]
