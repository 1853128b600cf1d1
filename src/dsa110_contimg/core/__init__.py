"""What every part of the program rests on: options, names, files, sidecars, errors, programs.

Imported by all; it imports nothing of this package.
"""
