"""From the photometry of all nights to light curves, measures of variability, candidates.

Imported by no other package: pages and index read its files.
"""
