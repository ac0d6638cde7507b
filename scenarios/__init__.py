"""Scenario files, the run loop, results, plots and the command line: the composition root."""

from scenarios.schema import Scenario, load, names

__all__ = ["Scenario", "load", "names"]
