"""From the photometry of all nights to light curves, measures of variability, candidates.

Imported by nothing above but commands: reports read its files.
"""
