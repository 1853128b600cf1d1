"""From tiles to the mosaics of hours and nights, and fields imaged from several tiles together.

Imported by operations (the plan of epochs).
"""
