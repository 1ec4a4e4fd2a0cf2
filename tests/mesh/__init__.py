"""Histories of a mesh that Hypothesis invents, shrinks, and holds against the reference model of `tests.sim.story`."""
