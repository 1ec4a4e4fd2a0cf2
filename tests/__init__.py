"""The tests. Run them from the repository's root: `python -m pytest`."""
