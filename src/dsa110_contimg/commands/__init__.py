"""What people call: one module a command of ``contimg``, with its arguments and what it prints.

Imported by the command line only.
"""
