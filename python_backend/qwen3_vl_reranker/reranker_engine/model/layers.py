"""torch's layers without their random initialisation: every weight comes from a checkpoint.

Initialising is not only wasted work. For tensors on the meta device it makes torch import its compiler, which takes
longer than loading a small checkpoint.
"""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Conv3d(nn.Conv3d):
    def reset_parameters(self) -> None:
        """Leave the weights as they are."""
