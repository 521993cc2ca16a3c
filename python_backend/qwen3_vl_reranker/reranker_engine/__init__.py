"""Scores (query, document) pairs with an unmodified Qwen3-VL reranker checkpoint.

Three layers, one way through: ``service`` (Triton tensors) -> ``inference`` (prompt, media, batches) -> ``model``
(weights and forward pass). Only ``service`` knows Triton; only ``model`` knows the weights' names.
"""
