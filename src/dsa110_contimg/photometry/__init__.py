"""Fluxes and positions in images: forced, blind, against the catalogue, corrections of an epoch.

Imported by imaging, mosaics and reports.
"""
