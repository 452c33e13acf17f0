"""One file per planner, found by its name: ``rules:`` is ``rules.py``. Each has ``open(url) -> Planner``."""
