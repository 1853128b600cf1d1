"""CSV tables: names are text whatever they look like, numbers are numbers also where no row is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TEXT", "read_csv"]

#: Columns that hold text: a source may be called ``007``, ``NA`` or ``1e5``.
TEXT = frozenset(
    ("source_id", "name", "group_or_epoch", "epoch", "flags", "image", "template", "nearest")
)
#: What stands for a number that is not there.
_BLANK = ("", "nan", "NaN", "NA", "N/A", "n/a", "NULL", "null", "None", "<NA>")


def read_csv(path: str | os.PathLike, **options: Any) -> pd.DataFrame:
    """Read a CSV; the columns of `TEXT` come as they are written, blank ones as ``""``.

    Parameters
    ----------
    path : path
        The table.
    **options
        Further ones of `pandas.read_csv`.
    """
    import pandas as pd

    columns = pd.read_csv(path, nrows=0, **options).columns
    numbers = [name for name in columns if name not in TEXT]
    table = pd.read_csv(
        path,
        dtype={name: str for name in columns if name in TEXT},
        keep_default_na=False,
        na_values=dict.fromkeys(numbers, _BLANK),
        **options,
    )
    return table if len(table) else table.astype(dict.fromkeys(numbers, float))
