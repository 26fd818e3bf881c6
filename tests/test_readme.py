"""Every command and every line of Python in the README works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from shards.verify import verify
from tests.pipelines.processes import environment, temporary_home

TEXTS = [f"document {n}: the quick brown fox jumps over lazy dog {n * n}" for n in range(4000)]


def blocks(repository: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (repository / "README.md").read_text(), re.S)


def commands(repository: Path) -> list[str]:
    lines = [line for block in blocks(repository, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines]


def test_every_make_target_of_the_readme_exists(repository):
    targets = re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.M)
    used = [command.split()[1] for command in commands(repository) if command.startswith("make ")]
    assert used == ["demo", "test"]
    assert set(used) <= set(targets)


def test_every_link_of_the_readme_leads_somewhere(repository):
    text = (repository / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (repository / target).exists(), target


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the README's commands name: corpus/ and my-tokenizer/."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "corpus").mkdir()
    pq.write_table(pa.table({"text": TEXTS}), folder / "corpus" / "part.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    (folder / "my-tokenizer").mkdir()
    tokenizer.save(str(folder / "my-tokenizer" / "tokenizer.json"))
    (folder / "my-tokenizer" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}'
    )
    return folder


@pytest.fixture
def home() -> Iterator[Path]:
    """HOME and Ray's folder: no cluster, token or setting of another test's is found there."""
    with temporary_home() as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run_one_after_the_other(repository, workplace, home):
    variables = environment(home, PYTHONPATH=str(repository))
    ran = []
    for command in commands(repository):
        words = shlex.split(command)
        if words[0] in ("make", "ray"):
            continue  # `make demo` and tests/pipelines run those
        assert words[0] == "python", command
        script = [str(repository / w) if w == "pipelines/tokenize.py" else w for w in words[1:]]
        answer = subprocess.run(
            [sys.executable, *script],
            cwd=workplace,
            env=variables,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
        ran.append(" ".join(words[:3]))
    assert len(ran) == 6, ran
    assert (workplace / "report" / "report.html").exists()
    for code in blocks(repository, "python"):
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=workplace,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert answer.returncode == 0, answer.stderr
        if "loader.stats()" in code:
            assert "wait_seconds" in answer.stdout
    verify(str(workplace / "tokens" / "v2"))
