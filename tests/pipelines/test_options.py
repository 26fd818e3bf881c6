"""The command line: what a person sees and types."""

from __future__ import annotations

import re

import pytest

from pipelines.options import Options, make_parser, parse_options, parse_size, show_size
from shards.errors import StokerError

LEAST = ["--input", "a", "--output", "o", "--tokenizer", "t"]


def test_what_a_shell_makes_of_a_glob_is_taken_and_inputs_add_up() -> None:
    options = parse_options(
        ["--input", "a", "b", "--output", "o", "--input", "c", "--tokenizer", "t"]
    )
    assert options.inputs == ("a", "b", "c")


def test_the_defaults_of_the_command_and_of_the_library_are_the_same() -> None:
    assert parse_options(LEAST) == Options(inputs=("a",), output="o", tokenizer="t")


def test_choices_about_documents_as_people_write_them() -> None:
    options = parse_options(
        [
            *LEAST,
            *("--keep-columns", "url", "year:int", "--keep-columns", "lang", "--no-append-eos"),
            *("--prepend-bos", "--begin-token", "<s>", "--min-tokens", "3", "--max-tokens", "9"),
            *("--shuffle-documents", "-5", "--validation", "0.5%", "--max-bad-rows", "0.1%"),
        ]
    )
    assert options.keep_columns == ("url", "year:int", "lang")
    assert (options.append_eos, options.prepend_bos, options.begin_token) == (False, True, "<s>")
    assert (options.min_tokens, options.max_tokens, options.shuffle_documents) == (3, 9, -5)
    assert (options.validation, options.max_bad_rows) == (0.005, 0.001)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("64MiB", 64 << 20), ("64mi", 64 << 20), ("1.5GB", 1_500_000_000), ("10 k", 10_000)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "1TB!", "0.1", "MiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|byte"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (128 << 20, "128 MiB"), (1 << 42, "4096 GiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert show_size(size) == text


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [*LEAST, "--engine", "fast"],
        [*LEAST, "--unit-bytes", "0"],
        [*LEAST, "--max-bad-rows", "-1"],
        [*LEAST, "--max-bad-rows", "100%"],
        [*LEAST, "--min-tokens", "0"],
        [*LEAST, "--limit", "all"],
        [*LEAST, "--validation", "1"],
        [*LEAST, "--shuffle-documents", "x"],
        [*LEAST, "--max-bad", "1"],
        [*LEAST, "--no-such-option"],
    ],
)
def test_wrong_usage_ends_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(wrong)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_is_grouped_and_shows_every_default() -> None:
    page = make_parser().format_help()
    for group in (
        "what to read",
        "how to encode",
        "what becomes of documents",
        "what to write",
        "examples",
    ):
        assert f"{group}:" in page
    for action in make_parser()._actions:
        if action.option_strings and not action.required and action.dest != "help":
            assert re.search(r"\(default: .+\)", str(action.help), re.DOTALL), action.dest
        assert not action.option_strings or action.option_strings[0] in page


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ()},
        {"format": "csv"},
        {"engine": "fast"},
        {"special_tokens": "no"},
        {"text_split": "word"},
        {"max_bad_rows": -1},
        {"max_bad_rows": 1.5},
        {"min_tokens": 0},
        {"min_tokens": 3, "max_tokens": 2},
        {"limit": -1},
        {"validation": 1.0},
        {"validation": -0.1},
        {"end_token": "x", "append_eos": False},
        {"begin_token": "x"},
        {"keep_columns": ("input_ids",)},
        {"keep_columns": ("text:string",)},
        {"keep_columns": ("a", "a:int")},
        {"unit_bytes": 0},
        {"shard_bytes": 0},
    ],
)
def test_the_library_refuses_what_the_command_refuses(changes: dict[str, object]) -> None:
    with pytest.raises(StokerError):
        Options(**{"inputs": ("a",), "output": "o", "tokenizer": "t", **changes})  # type: ignore[arg-type]
