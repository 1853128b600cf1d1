"""Errors that end a step with one plain line.

A `ContimgError` is for what a user can act on: it names the file, the cause and the remedy, and the
command line prints it without a traceback. Anything else that escapes a step is a bug and keeps its
traceback.
"""

__all__ = ["ConfigError", "ContimgError", "DataError", "ToolError", "ToolStopped"]


class ContimgError(Exception):
    """A failure that a user can act on; the message is one line."""

    #: Exit status of the command line.
    status = 1


class ConfigError(ContimgError):
    """A wrong configuration: unknown key, wrong type, missing folder."""

    status = 2


class DataError(ContimgError):
    """An input file that cannot be used."""

    status = 3


class ToolError(ContimgError):
    """An external program that is absent, failed, hung or diverged."""

    status = 4


class ToolStopped(ToolError):
    """An external program that we stopped: it exceeded its time limit or was seen to diverge."""
