"""Continuum imaging of the DSA-110: raw correlator files to light curves."""

__version__ = "0.2.0"
