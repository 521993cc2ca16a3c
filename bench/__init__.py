"""What is measured: rollouts (``make bench``), the engine (``make bench-engine``), its loads (``bench.memory``), the
journal (``bench.journal``)."""
