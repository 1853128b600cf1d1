"""Source catalogues and calibrators, and what a flux scale rests on.

Imported by all packages but core, telescope and ms.
"""
