"""Entry point of the Triton python-based backend ``qwen3_vl_reranker``; the engine is in ``reranker_engine``."""

from reranker_engine.service.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
