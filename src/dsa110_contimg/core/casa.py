"""CASA, set up for work without network.

CASA's C++ and python-casacore do not live in one process: a module that imports this one must not
import ``casacore``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ToolError
from .files import scratch

__all__ = ["casa_session"]

_SITE_CONFIG = """\
import casadata
measurespath = casadata.datapath
datapath = [casadata.datapath]
measures_auto_update = False
data_auto_update = False
nologger = True
log2term = True
nogui = True
agg = True
"""


@contextmanager
def casa_session() -> Iterator:
    """Give the ``casatasks`` module, inside a scratch folder of its own.

    CASA reads measures data from the ``casadata`` package, never from the network, and leaves its
    logs and temporary tables in the scratch folder, which is removed afterwards. Paths given to
    tasks must be absolute, for the working directory is that folder while the block runs.

    Yields
    ------
    module
        ``casatasks``.

    Raises
    ------
    ToolError
        If python-casacore is already in this process, or CASA cannot be imported.
    """
    if "casacore" in sys.modules:
        raise ToolError("CASA and python-casacore cannot share a process; run this step alone")
    with scratch("casa") as folder:
        config = folder / "casasiteconfig.py"
        config.write_text(_SITE_CONFIG)
        os.environ["CASASITECONFIG"] = str(config)
        before = Path.cwd()
        os.chdir(folder)
        try:
            try:
                import casatasks
            except ImportError as error:
                raise ToolError(f"CASA cannot be imported: {error}") from error
            yield casatasks
        finally:
            os.chdir(before)
