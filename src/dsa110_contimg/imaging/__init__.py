"""From calibrated visibilities to a tile: imagers, bright sources, self-calibration, verdict.

Imported by mosaics (joint imaging) and operations (what was asked for); the Snakefile asks for its
presets.
"""
