"""From correlator files to a flagged Measurement Set: inventory, group file, conversion, flags.

Imported by operations and commands.
"""
