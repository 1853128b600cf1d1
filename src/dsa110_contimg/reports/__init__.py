"""What people look at and other tools read: verdicts, pages, plots, index, exports.

Imported by commands only.
"""
