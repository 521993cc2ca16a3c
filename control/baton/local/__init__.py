"""A real Triton server on this machine, for ``ctl up``, the demo and the tests."""

from baton.local.assemble import assemble
from baton.local.find import Installation, find_triton
from baton.local.ports import Ports
from baton.local.process import LocalTriton

__all__ = ["Installation", "LocalTriton", "Ports", "assemble", "find_triton"]
