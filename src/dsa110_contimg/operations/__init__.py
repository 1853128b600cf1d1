"""What there is to do and how it fares: plan, engine, failures, closing, retention, alerts.

Imported by commands, and by the Snakefile.
"""
