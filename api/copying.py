"""GPU windows in the format of PostgreSQL's binary COPY, without any Python per row.

A numpy structured array with big-endian fields and a length before each value is that format. A NULL has the
length -1 and no bytes, so that rows of unlike NULLs have unlike widths: rows are grouped by which of their
columns are NULL, and each group is one array.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.decode import GpuRows
from gigawatch import schema
from gigawatch.wire import columns

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
EPOCH_MS = 946_684_800_000
"""2000-01-01 UTC, from which PostgreSQL counts, in milliseconds since 1970."""
BIG_ENDIAN: dict[str, np.dtype[Any]] = {"h": np.dtype(">i2"), "i": np.dtype(">i4"), "q": np.dtype(">i8")}
COLUMN_NAMES = tuple(column.name for column in schema.gpu_window.columns)


def gpu_windows(rows: GpuRows, gpu_ids: NDArray[np.int32]) -> Iterator[bytes]:
    """The rows for `COPY gigawatch.gpu_window (COLUMN_NAMES) FROM STDIN (FORMAT BINARY)`.

    Args:
        rows: what to store.
        gpu_ids: of each row.
    """
    yield SIGNATURE
    packed = {column.name: column for column in columns()}
    values: dict[str, NDArray[Any]] = {
        "time": (rows.columns["start"] - EPOCH_MS) * 1_000,
        "gpu_id": gpu_ids,
        **{name: rows.columns[name] for name in COLUMN_NAMES if name in packed},
    }
    widths = {"time": BIG_ENDIAN["q"], "gpu_id": BIG_ENDIAN["i"]}
    widths |= {name: BIG_ENDIAN[packed[name].typecode] for name in COLUMN_NAMES if name in packed}
    nulls = {name: values[name] == packed[name].absent for name in COLUMN_NAMES if name in packed}
    pattern = np.zeros(rows.count, np.int64)
    for place, null in enumerate(nulls.values()):
        pattern |= null.astype(np.int64) << place
    for code in np.unique(pattern):
        chosen = pattern == code
        fields: list[tuple[str, Any]] = [("fields", ">i2")]
        absent = {name for place, name in enumerate(nulls) if code >> place & 1}
        for name in COLUMN_NAMES:
            fields.append((f"{name}_length", ">i4"))
            if name not in absent:
                fields.append((name, widths[name]))
        block = np.empty(np.count_nonzero(chosen), np.dtype(fields))
        block["fields"] = len(COLUMN_NAMES)
        for name in COLUMN_NAMES:
            block[f"{name}_length"] = -1 if name in absent else widths[name].itemsize
            if name not in absent:
                block[name] = values[name][chosen]
        yield block.tobytes()
    yield TRAILER
