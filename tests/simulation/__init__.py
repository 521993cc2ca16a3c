"""The whole control plane in one thread, driven by a seed: see ``story.py`` and ``events.py``."""
