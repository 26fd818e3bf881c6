"""A few documents of a job's own, from units over the whole plan."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.choose import cut_sample
from pipelines.plan import Plan, Unit
from pipelines.read import read_slice
from pipelines.transform import Transform, apply_transform

_SAMPLED_CHARACTERS = 1 << 20
_SAMPLED_UNITS = 8


def chosen_units(plan: Plan) -> tuple[Unit, ...]:
    """Some units, the first one and others at equal distances."""
    return plan.units[:: max(1, len(plan.units) // _SAMPLED_UNITS)][:_SAMPLED_UNITS]


def sample_documents(plan: Plan) -> pa.LargeStringArray:
    """The first documents of those units, transformed, about a million characters in all."""
    units = chosen_units(plan)
    budget = _SAMPLED_CHARACTERS // max(1, len(units))
    samples = [cut_sample(_texts(unit, plan), budget) for unit in units]
    return pa.concat_arrays(samples) if samples else pa.array([], pa.large_string())


def _texts(unit: Unit, plan: Plan) -> Iterator[str]:
    transform = Transform.of(plan.rules)
    for batch in read_slice(unit.slices[0], plan.reading):
        documents = batch.documents
        if transform is not None:
            column = plan.reading.text_column
            documents, _ = apply_transform(transform, documents, batch.columns, column)
        yield from (text.as_py() for text in documents)
