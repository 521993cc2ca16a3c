"""A package, so that ``tests/triton`` is never what ``import triton`` finds (torch asks for it)."""
