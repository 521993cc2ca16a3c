"""A stateless HTTP gateway in front of one or several Tritons: the rerank API that people's tools already speak.

One way through: ``body`` reads bytes, ``shapes`` makes of each client's shape the one internal ``Query``, ``pool`` asks
a server, ``shapes`` writes the one internal ``Answer`` in the client's shape. Whatever goes wrong is a ``Problem``.

Nothing here knows the control plane: it works in front of any Triton that serves the alias.
"""
