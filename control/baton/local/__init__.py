"""A real Triton server on this machine, for ``ctl up``, the demo and the tests."""

from baton.local.assemble import assemble as assemble
from baton.local.find import Installation as Installation, find_triton as find_triton
from baton.local.ports import Ports as Ports
from baton.local.process import LocalTriton as LocalTriton
