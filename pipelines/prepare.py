"""What a job knows before anything is written: inputs, tokenizer, rules, plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.append import Held
from pipelines.inputs import Input, find_inputs
from pipelines.limit import first_pieces
from pipelines.options import Options, ReadOptions
from pipelines.plan import SMALLEST_UNIT, Plan, cut_pieces, make_plan
from pipelines.read import column_types
from pipelines.record import tokenizer_info
from pipelines.tokenizer import Tokenizer, load_tokenizer
from pipelines.transform import find_transform
from shards.format import FORMAT_VERSION
from shards.manifest import DocumentRules


def prepare(options: Options, held: Held | None = None) -> tuple[Plan, Tokenizer]:
    """The plan of a job, and its tokenizer.

    Args:
        held: what the output holds; None: to be looked at. With `append`, just the inputs that are
            new to it are planned.

    Raises:
        StokerError: something that was named isn't there, or is not what it should be.
    """
    inputs: Sequence[Input] = find_inputs(options.inputs, options.format)
    tokenizer = load_tokenizer(
        options.tokenizer,
        options.end_token,
        options.begin_token,
        append_eos=options.append_eos,
        prepend_bos=options.prepend_bos,
    )
    if options.append:
        held = held or Held.at(options.output)
        held.check_fits(tokenizer_info(tokenizer, options.special_tokens))
        inputs = held.new(inputs)
    reading = options.reading
    if options.keep_columns and inputs:
        # Those of the dataset that is appended to: its first file told them.
        types = held.column_types(options.keep_columns) if held and options.append else None
        if types is None:
            first = next(cut_pieces(inputs, SMALLEST_UNIT, reading))[1]
            types = column_types(first, options.keep_columns)
        reading = replace(reading, columns=types)
    pieces = None
    if options.limit is not None:
        pieces = first_pieces(
            inputs, options.limit, options.reading, options.unit_bytes or SMALLEST_UNIT
        )
        touched = {piece.uri for _, piece in pieces}
        inputs = [item for item in inputs if item.uri in touched]
    rules = rules_of(options, reading)
    if held is not None and options.append and inputs:
        held.check_rules(rules)
    plan = make_plan(
        inputs,
        options,
        tokenizer.fingerprint,
        tokenizer.end_id,
        FORMAT_VERSION,
        begin_id=tokenizer.begin_id,
        rules=rules,
        reading=reading,
        pieces=pieces,
    )
    return plan, tokenizer


def rules_of(options: Options, reading: ReadOptions) -> DocumentRules:
    """What becomes of documents besides encoding, as it is hashed into the plan and kept."""
    transform = None if options.transform is None else find_transform(options.transform)
    return DocumentRules(
        min_tokens=options.min_tokens,
        max_tokens=options.max_tokens,
        validation=options.validation,
        shuffle_seed=options.shuffle_documents,
        transform=None if transform is None else transform.name,
        transform_sha256=None if transform is None else transform.sha256,
        columns={field.name: str(field.type) for field in reading.columns or ()},
        limit=options.limit,
    )
