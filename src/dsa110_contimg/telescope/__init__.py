"""The DSA-110 itself: site, stations, band, beam, smearing, directions.

Imported by all packages but core, catalogs, lightcurves and commands.
"""
