"""A telescope and a sky that are known: raw files for demonstrations and tests.

Imported by commands only.
"""
