"""From calibrated visibilities to a tile: imagers, bright sources, self-calibration, verdict.

Imported by mosaics (joint imaging); the Snakefile asks for its presets.
"""
