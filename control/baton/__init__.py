"""Baton hands live traffic from one model version to the next without dropping a request."""

__version__ = "0.1.0"
