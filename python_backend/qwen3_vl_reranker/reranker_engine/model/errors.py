"""What can be wrong with a checkpoint."""


class CheckpointError(Exception):
    """The folder is not a checkpoint that this engine can serve; the text says what is wrong with it."""
