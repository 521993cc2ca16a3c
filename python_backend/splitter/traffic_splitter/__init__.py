"""Splits live requests between two versions of an engine. Only ``model.py`` depends on Triton, not this package."""
