"""Triton's side: tensors in and out, parameters, errors, the life of an instance."""
