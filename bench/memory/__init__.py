"""What a load of the engine takes, in memory and in time: measured by ``python -m bench.memory``."""
