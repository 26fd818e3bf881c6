"""Transforms for the tests, in a module that Ray's workers find beside the code."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def tidy(table: pa.Table) -> pa.Table:
    """Upper case; without texts that begin with `no`; one more row for each of `year` 1."""
    kept = table.filter(pc.invert(pc.starts_with(table["text"], "no")))
    kept = kept.set_column(0, "text", pc.utf8_upper(kept["text"]))
    return pa.concat_tables([kept, kept.filter(pc.equal(kept["year"], 1))])


def fails(table: pa.Table) -> pa.Table:
    """Raises."""
    raise RuntimeError(f"no good: {len(table)} rows")
