"""How a model is updated today, against Baton: the same model, load and machine, one way after another.

    ways  ->  load generator  ->  measure (pure)  ->  table, figure

Each way is one module with one class that keeps to ``way.Way``.
"""
