"""Calibrations: which serves which tile, solving and judging them on a transit, applying them.

Imported by imaging (tables, reference antenna), reports and operations (the plan).
"""
