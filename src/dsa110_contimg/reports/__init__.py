"""What people look at and other tools read: verdicts, pages, plots, index, exports.

Imported by operations and commands.
"""
