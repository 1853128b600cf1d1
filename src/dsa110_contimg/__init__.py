"""Continuum imaging of the DSA-110: raw correlator files to light curves."""

__version__ = "0.1.0"
