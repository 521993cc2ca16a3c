"""Splits live requests between two versions of an engine; nothing in here knows Triton, only ``model.py`` does."""
