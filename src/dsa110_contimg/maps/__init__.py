"""FITS images and what belongs to them: planes, noise, beams, headers, restoring.

Imported by photometry, imaging, mosaics and reports.
"""
