"""Faults on a real Triton and a real control plane, one after the other, under load: ``make chaos``.

    plan (seeded)  ->  stage (Triton, ctl serve, clients)  ->  strike  ->  wait for rest  ->  table

Everything is a process of its own, so that each can be killed alone. What the operator's supervisor would do (start
again what ended) the stage does; nothing else is ever mended by hand.
"""
