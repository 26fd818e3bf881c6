"""Counts and rules in words, for `inspect` and for the job's last lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shards.manifest import DocumentRules
from shards.receipt import Counts


def row_lines(counts: Counts, rules: Iterable[DocumentRules] = ()) -> Iterator[str]:
    """What became of the rows: the sum, then why documents were dropped.

    Args:
        rules: of every plan; limits on which they agree are named.
    """
    transformed = ""
    if counts.transform_in:
        transformed = (
            f" - {counts.transform_in:,} into the transform + {counts.transform_out:,} out of it"
        )
    yield (
        f"{counts.rows:,} read{transformed} = {counts.documents:,} documents + "
        f"{counts.dropped:,} dropped + {counts.quarantined:,} quarantined"
    )
    if counts.dropped:
        yield f"dropped {counts.dropped:,}: {reasons(counts, rules)}"


def reasons(counts: Counts, rules: Iterable[DocumentRules] = ()) -> str:
    """Why documents were dropped: `10 shorter than 16 tokens, 2 without a token`."""
    rules = list(rules)
    shortest = _agreed({rule.min_tokens for rule in rules}, "--min-tokens")
    longest = _agreed({rule.max_tokens for rule in rules}, "--max-tokens")
    found = (
        (counts.dropped_short, f"shorter than {shortest}"),
        (counts.dropped_long, f"longer than {longest}"),
        (counts.dropped_empty, "without a token"),
    )
    return ", ".join(f"{count:,} {why}" for count, why in found if count)


def _agreed(limits: set[int | None], otherwise: str) -> str:
    if len(limits) == 1 and (limit := next(iter(limits))) is not None:
        return f"{limit:,} tokens"
    return otherwise


def rule_lines(rules: DocumentRules) -> Iterator[str]:
    """What a plan did with documents besides encoding them, a line for each rule it had."""
    if rules.min_tokens is not None or rules.max_tokens is not None:
        least, most = rules.min_tokens or 0, rules.max_tokens
        yield f"documents of {least:,} {f'to {most:,}' if most is not None else 'or more'} tokens"
    if rules.validation:
        yield f"validation: {rules.validation:.4g} of the documents, by a hash of their text"
    if rules.shuffle_seed is not None:
        yield f"documents shuffled inside each unit, seed {rules.shuffle_seed}"
    if rules.transform:
        yield f"transform {rules.transform}, source sha256 {rules.transform_sha256}"
    if rules.columns:
        kept = ", ".join(f"{name} ({kind})" for name, kind in rules.columns.items())
        yield f"columns kept: {kept}"
    if rules.limit is not None:
        yield f"at most {rules.limit:,} documents of each source"
