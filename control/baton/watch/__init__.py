"""What lies in the engine directories, since when, and a wake-up when that changes."""
