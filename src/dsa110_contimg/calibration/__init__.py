"""Calibrations: which serves which tile, solving and judging them on a transit, applying them.

Imported by imaging (self-calibration), reports, operations and commands.
"""
