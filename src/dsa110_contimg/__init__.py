"""Continuum imaging of the DSA-110: one module a stage, each usable without the workflow."""

__version__ = "0.1.0"
