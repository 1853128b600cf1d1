"""Measurement Sets of one tile: what they hold, how they are written, worked through, summed up.

Imported by conversion, calibration, maps, imaging and mosaics.
"""
