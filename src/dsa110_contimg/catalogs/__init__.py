"""Source catalogues and calibrators, and what a flux scale rests on.

Imported by calibration, photometry, imaging, mosaics, simulation, operations and commands.
"""
