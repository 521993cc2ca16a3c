"""Starts Triton and the control plane, and loads them: for tests, the demo, benches and chaos.

``triton`` starts a Triton on free ports, ``control_plane`` a ``ctl serve`` or ``ctl up``, ``rig`` a ``ctl up`` on a
fresh repository, ``processes`` any other program. Each of them ends with all that it started. ``waiting`` waits for a
condition, ``network`` asks this machine's own ports, ``memory`` weighs processes, ``traffic`` is the load.
"""
