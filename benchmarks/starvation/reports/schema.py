"""`report.schema.json`, made from the classes: `python -m benchmarks.starvation.reports.schema`."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from benchmarks.starvation.explain.causes import CALLED, CAUSES
from benchmarks.starvation.reports.report import REPORT_VERSION, SCHEMA, Report

# What a document says beside the fields of its classes: see `Report.document`.
_RATE = {"anyOf": [{"type": "number"}, {"type": "null"}]}
_CAUSE = {"anyOf": [{"enum": [*CAUSES]}, {"type": "null"}]}
_DERIVED: dict[str, dict[str, Any]] = {
    "Report": {
        "verdict": {"type": "string"},
        "valid": {"type": "boolean"},
        "unstable": {"type": "boolean"},
        "meanings": {"type": "object", "additionalProperties": {"type": "string"}},
        "called": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "Result": {
        "headroom": _RATE,
        "seeds": {"type": "integer"},
        "ranks": {"type": "integer"},
        "unstable": {"type": "boolean"},
        "main_cause": _CAUSE,
        "most_idle": _CAUSE,
        "comm_exposed": _RATE,
        "starved_usd_per_hour": _RATE,
    },
    "Figures": {"valid": {"type": "boolean"}},
    "Ladder": {"agrees": {"type": "boolean"}},
}
# Fields that version 2 has not had from its beginning: older reports are to be compared still.
_ADDED = {"asked_steps"}
# NaN where a window of one step has none.
_MAY_BE_UNKNOWN = {"au"}


def make_schema() -> dict[str, Any]:
    """The JSON schema of `Report.document`: closed objects, every field there but `_ADDED`."""
    made = TypeAdapter(Report).json_schema(mode="serialization")
    parts = {"Report": made, **made["$defs"]}
    for name, part in parts.items():
        properties = part["properties"]
        for field, kind in properties.items():
            kind.pop("default", None)
            if field in _MAY_BE_UNKNOWN:
                properties[field] = _RATE | {"title": kind["title"]}
        properties.update(_DERIVED.get(name, {}))
        part["required"] = sorted(set(properties) - _ADDED)
        part["additionalProperties"] = False
    names = {"propertyNames": {"enum": [*CAUSES]}}
    for part in (parts["Result"], parts["Run"]):
        part["properties"]["causes"] |= names
    parts["Figures"]["properties"]["shares"] |= names
    parts["Control"]["properties"]["causes_ms"] |= names
    for cause in (parts["Advice"]["properties"]["cause"],):
        cause["enum"] = [*CALLED]
    made["properties"]["version"] = {"const": REPORT_VERSION}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"stoker-starvation-report-{REPORT_VERSION}",
        **made,
    }


def text() -> str:
    """What the file holds."""
    return json.dumps(make_schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8")
