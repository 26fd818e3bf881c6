"""A Mixture's promises: exact shares, whole epochs of each source, equal batches on any ranks."""

import gc
from collections import Counter
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import DataLoader, Mixture, MixtureLoader, TokenDataLoader, TokenDataset
from loaders.__main__ import main
from loaders.mixture_loader import _divided
from tests.loaders.mixtures import (
    SEQ_LEN,
    mixture,
    mixture_loader,
    ranks,
    rows,
    source,
    steps,
)
from tests.loaders.support import stoker_threads, wait_until
from tests.servers import S3Server

SAMPLES = {"code": 130, "tiny": 9, "web": 400}
WEIGHTS = {"code": Fraction(3, 10), "tiny": Fraction(1, 10), "web": Fraction(6, 10)}
STREAMING = {"prefetch_bytes": 12_000, "lanes": 8}
NAMES = [*sorted(SAMPLES)]
GOLDEN = "490 118 402 130 175 478 84 216 445 107 503 138 327 232 4 344 464 51 139 62 133 150 40 337"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    return mixture(tmp_path_factory.mktemp("mixture"), SAMPLES, WEIGHTS)


def slowly(*arguments: Any) -> Any:
    """One of many alike: `make test-slow` runs it."""
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.fixture(params=["resident", "streaming"])
def mode(request: pytest.FixtureRequest) -> dict[str, Any]:
    return STREAMING if request.param == "streaming" else {}


def test_every_prefix_has_its_exact_shares(mixed: Mixture, mode: dict[str, Any]) -> None:
    loader = mixture_loader(mixed, 8, True, **mode)
    seen: Counter[int] = Counter()
    rows_given = 0
    for batch in islice(loader.repeat(), 150):
        step = rows([batch])
        seen.update(number for number, _ in step)
        rows_given += len(step)
        for number, name in enumerate(NAMES):
            assert abs(seen[number] - rows_given * WEIGHTS[name]) < Fraction(17, 10)
        of_sources = loader.stats()["sources"]
        assert [of_sources[name]["rows"] for name in NAMES] == [seen[n] for n in range(3)]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [1, 4])
def test_each_source_gives_every_row_once_before_it_begins_again(
    mixed: Mixture, mode: dict[str, Any], shuffle: bool, world: int
) -> None:
    seen = [Counter[int]() for _ in NAMES]
    for step in steps(ranks(mixed, world, 8, shuffle=shuffle, **mode), 200):
        for number, sample in step:
            seen[number][sample] += 1
        for name, of_source in zip(NAMES, seen, strict=True):
            epochs, more = divmod(of_source.total(), SAMPLES[name])
            times = Counter(of_source[sample] for sample in range(SAMPLES[name]))
            assert times == +Counter({epochs: SAMPLES[name] - more, epochs + 1: more})
    assert all(of_source.total() > 0 for of_source in seen)


@pytest.mark.parametrize("drop_last", [True, slowly(False)])
def test_the_global_batches_are_the_same_on_1_2_4_8_ranks(
    mixed: Mixture, mode: dict[str, Any], drop_last: bool
) -> None:
    alone = steps(ranks(mixed, 1, 8, shuffle=True, drop_last=drop_last, **mode), 80)
    for world in (2, 4, 8):
        loaders = ranks(mixed, world, 8, shuffle=True, drop_last=drop_last, **mode)
        assert steps(loaders, 80) == alone
        moved = [loader.stats()["moved_rows"] for loader in loaders]
        assert sum(moved) > 0


@settings(max_examples=8)
@given(
    samples=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    weights=st.lists(st.integers(0, 20), min_size=4, max_size=4),
    world=st.sampled_from([2, 3, 6]),
    batch=st.integers(1, 5),
    shuffle=st.booleans(),
)
def test_any_mixture_is_the_same_on_any_ranks(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[int],
    weights: list[int],
    world: int,
    batch: int,
    shuffle: bool,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    names = "abcd"[: len(samples)]
    of_names = dict(zip(names, weights, strict=False))
    of_names["a"] += not any(of_names.values())
    several = mixture(folder, dict(zip(names, samples, strict=True)), of_names)
    settings = {"shuffle": shuffle, "lanes": 12}
    alone = steps(ranks(several, 1, world * batch, **settings), 20)
    assert steps(ranks(several, world, world * batch, **settings), 20) == alone


def test_a_small_source_repeats_with_its_epochs_counted(mixed: Mixture) -> None:
    parts = {part.name: (part.dataset, WEIGHTS[part.name]) for part in mixed.parts}
    loader = mixture_loader(Mixture(parts, samples=900), 10, True)
    tiny = [[sample for number, sample in step if number == 1] for step in steps([loader], 90)]
    assert all(len(step) == 1 for step in tiny)
    epochs = [[*chain(*tiny[start : start + 9])] for start in range(0, 90, 9)]
    assert all(sorted(epoch) == [*range(9)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10  # each in an order of its own
    stats = loader.stats()
    found = stats["sources"]
    assert found["tiny"] == {"weight": 0.1, "rows": 90, "tokens": 90 * SEQ_LEN, "epochs": 10.0}
    assert found["web"]["rows"] == 540
    assert found["web"]["epochs"] == 540 / 400
    assert stats["batches"] == 90
    assert stats["tokens"] == 900 * SEQ_LEN


def test_names_choose_the_order_and_neither_their_sequence_nor_their_number_do(
    mixed: Mixture,
) -> None:
    parts = {part.name: part.dataset for part in mixed.parts}
    pairs = {name: (parts[name], WEIGHTS[name]) for name in reversed(NAMES)}
    expected = steps([mixture_loader(mixed, 8, True, seed=3)], 20)
    assert steps([mixture_loader(Mixture(pairs), 8, True, seed=3)], 20) == expected
    assert steps([mixture_loader(Mixture(pairs), 8, True, seed=4)], 20) != expected

    def of_web(pairs: Any) -> list[int]:
        several = Mixture(pairs)
        number = several.names.index("web")
        first = several.parts[number].first
        loader = mixture_loader(several, 8, True, seed=3)
        return [sample - first for sample in islice(loader.sampler, 200) if sample >= first][:90]

    alone = of_web({"web": pairs["web"]})
    assert of_web(pairs) == alone
    renamed = {"zzz": pairs["web"]}
    assert [*islice(mixture_loader(Mixture(renamed), 8, True, seed=3).sampler, 90)] != alone


def test_the_order_of_a_mixture_never_changes(mixed: Mixture) -> None:
    # A run that is resumed has to find the rows that it would have had.
    loader = mixture_loader(mixed, 8, True, seed=7)
    assert [*islice(loader.sampler, 24)] == [int(sample) for sample in GOLDEN.split()]


@pytest.mark.parametrize(("drop_last", "world"), [(True, 4), (False, 4), slowly(False, 1)])
def test_torchs_own_loader_with_its_sampler_gives_the_same_batches(
    mixed: Mixture, drop_last: bool, world: int
) -> None:
    for loader in ranks(mixed, world, 8, shuffle=True, drop_last=drop_last):
        rebuilt = torch.utils.data.DataLoader(
            mixed, loader.batch_size, sampler=loader.sampler, drop_last=drop_last
        )
        loader.skip(7)
        assert len(loader.sampler) // (8 // world) <= len(loader) == len(rebuilt)
        for batch, other in zip(loader, rebuilt, strict=True):
            assert batch.keys() == other.keys()
            assert all(torch.equal(batch[name], other[name]) for name in batch)


def test_it_is_a_list_of_the_samples_of_its_sources(mixed: Mixture) -> None:
    assert len(mixed) == 539
    for index, number, sample in ((0, 0, 0), (129, 0, 129), (130, 1, 0), (139, 2, 0), (-1, 2, 399)):
        batch = torch.utils.data.default_collate([mixed[index]])
        assert rows([batch]) == [(number, sample)]
    several = torch.utils.data.default_collate(mixed[128:141])
    assert rows([several]) == [
        *((0, n) for n in (128, 129)),
        *((1, n) for n in range(9)),
        (2, 0),
        (2, 1),
    ]
    with pytest.raises(IndexError, match="sample 539 of 539"):
        mixed[539]


def test_an_epoch_is_as_many_rows_as_the_sources_have_together_or_as_one_says(
    mixed: Mixture,
) -> None:
    loader = mixture_loader(mixed, 8, True)
    assert len(loader) == 68
    first, second = ([rows([batch]) for batch in loader] for _ in range(2))
    assert [len(step) for step in first] == [8] * 67 + [3]
    assert first + second == steps([mixture_loader(mixed, 8, True)], 136)
    parts = {part.name: (part.dataset, WEIGHTS[part.name]) for part in mixed.parts}
    short = mixture_loader(Mixture(parts, samples=40), 8, True)
    assert len(short) == 5
    epochs = [[rows([batch]) for batch in short] for _ in range(3)]
    assert [*chain(*epochs)] == first[:15]
    assert short.stats()["epoch"] == 3


def test_a_peek_changes_nothing(mixed: Mixture) -> None:
    expected = steps([mixture_loader(mixed, 8, True)], 68)
    loader = mixture_loader(mixed, 8, True)
    assert rows([next(iter(loader))]) == expected[0]
    assert [rows([batch]) for batch in loader] == expected


def test_skipping_is_as_if_the_steps_had_been_delivered(mixed: Mixture) -> None:
    expected = steps(ranks(mixed, 2, 8, shuffle=True), 160)
    for count in (1, 30, 68, 100):
        loaders = ranks(mixed, 2, 8, shuffle=True)
        for loader in loaders:
            loader.skip(count)
        assert steps(loaders, 20) == expected[count : count + 20]


def test_its_batches_are_ones_own(mixed: Mixture) -> None:
    held = [*islice(mixture_loader(mixed, 8, True).repeat(), 80)]
    assert [rows([batch]) for batch in held] == steps([mixture_loader(mixed, 8, True)], 80)


@pytest.mark.parametrize("leave", ["at its end", "del", "close"])
def test_threads_end_with_the_iteration(mixed: Mixture, leave: str) -> None:
    gc.collect()
    wait_until(lambda: not stoker_threads())
    gc.disable()  # it is the last reference to an iterator that ends them
    try:
        loaders = ranks(mixed, 2, 8, shuffle=True, **STREAMING)
        iterators = [iter(loader) for loader in loaders]
        for number, _ in enumerate(zip(*iterators, strict=True)):
            if leave != "at its end" and number == 20:
                assert stoker_threads()
                break
        if leave == "close":
            for iterator in iterators:
                iterator.close()  # type: ignore[attr-defined]
            assert [*iterators[0]] == []
        else:
            del iterators
        wait_until(lambda: not stoker_threads())
    finally:
        gc.enable()


@pytest.mark.parametrize("world", [slowly(1), 2])
def test_it_reads_s3_in_blocks(s3: S3Server, world: int) -> None:
    uri = s3.bucket(f"loaders-mixture-{world}")
    several = mixture(uri, SAMPLES, WEIGHTS)
    loaders = ranks(several, world, 8, shuffle=True, num_workers=2, **STREAMING)
    batches = steps(loaders, 67)
    rows_read = 67 * 8 - sum(loader.stats()["moved_rows"] for loader in loaders)
    assert batches == steps([mixture_loader(several, 8, True, **STREAMING)], 67)
    assert sum(loader.stats()["requests"] for loader in loaders) < rows_read


def test_the_class_is_chosen_by_the_dataset(mixed: Mixture) -> None:
    class Ours(TokenDataLoader):
        pass

    class OurMixture(MixtureLoader):
        pass

    assert type(DataLoader(mixed, 8)) is MixtureLoader
    assert type(OurMixture(mixed, 8)) is OurMixture
    with pytest.raises(
        TypeError, match=r"Ours is given a Mixture: derive it from loaders\.Mixture"
    ):
        Ours(mixed, 8)
    with pytest.raises(TypeError, match="a MixtureLoader is for a Mixture, not a TokenDataset"):
        MixtureLoader(mixed.parts[0].dataset, 8)


def test_shares_of_documents_count_each_with_the_mean_length_of_its_source(
    tmp_path: Path,
) -> None:
    # Two documents each: of 1,602 tokens on average, and of 803.
    several = mixture(
        tmp_path, {"long": 200, "short": 100}, {"long": 1, "short": 1}, unit="documents"
    )
    assert several.shares.weights == (Fraction(3205, 4810), Fraction(1605, 4810))


def test_sources_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    a = source(str(tmp_path / "a"), 0, 20)
    with pytest.raises(ValueError, match=r"source 'b' has seq_len=8, the mixture 16"):
        Mixture({"a": (a, 1), "b": (TokenDataset(a.uri, 8), 1)})
    with pytest.raises(ValueError, match="a Mixture of uris needs seq_len="):
        Mixture({"a": (a.uri, 1)})
    with pytest.raises(ValueError, match="a Mixture needs sources"):
        Mixture({})
    with pytest.raises(ValueError, match="unit='rows': choose one of tokens, documents"):
        Mixture({"a": (a, 1)}, unit="rows")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples must be at least 1, not 0"):
        Mixture({"a": (a, 1)}, samples=0)
    with pytest.raises(ValueError, match=r"source 'a' must be \(uri or TokenDataset, weight\)"):
        Mixture({"a": a})  # type: ignore[dict-item]
    assert Mixture({"a": (a.uri, 1)}, 8, split="train").seq_len == 8


def test_what_a_mixture_can_not_mean_is_refused_with_advice(mixed: Mixture) -> None:
    with pytest.raises(ValueError, match="collate_fn= does not go with a Mixture: batches"):
        DataLoader(mixed, 8, collate_fn=list)
    with pytest.raises(ValueError, match="max_seq_len= does not go with a Mixture"):
        DataLoader(mixed, 8, max_seq_len=32)
    with pytest.raises(ValueError, match="7 data-parallel ranks cannot share 960 lanes"):
        DataLoader(mixed, 8, data_parallel_rank=0, data_parallel_size=7)
    with pytest.raises(
        ValueError, match=r"source 'code' of the mixture: prefetch_bytes=.* too small"
    ):
        DataLoader(mixed, 8, True, prefetch_bytes=10_000)


def test_memory_is_given_to_small_sources_whole_and_divided_among_the_rest() -> None:
    assert _divided(None, [1, 2]) == [None, None]
    assert _divided(100, [70, 10, 500]) == [45, 10, 45]
    assert _divided(100, [20, 10, 500]) == [20, 10, 70]
    assert _divided(100, [20, 10, 30]) == [20, 10, 30]


def test_set_epoch_before_the_first_batch_moves_an_iteration_that_has_begun(
    mixed: Mixture,
) -> None:
    expected = steps([mixture_loader(mixed, 8, True)], 140)
    loader = mixture_loader(mixed, 8, True)
    batches = iter(loader)
    loader.set_epoch(1)
    assert [rows([batch]) for batch in batches] == expected[68:136]
    loader.set_epoch(5)
    assert loader.stats()["epoch"] == 5


@pytest.mark.parametrize(("world", "mask"), [(4, True), slowly(1, True), slowly(4, False)])
def test_masks_of_documents_and_labels_one_ahead_come_with_the_rows(
    tmp_path: Path, world: int, mask: bool
) -> None:
    options: dict[str, Any] = {"labels": "next", "document_mask": mask}
    uris = {part: source(str(tmp_path / part), n, 60 + n).uri for n, part in enumerate("ab")}
    several = Mixture({name: (uri, 1) for name, uri in uris.items()}, SEQ_LEN, **options)
    for loader in ranks(several, world, 8, shuffle=True):
        batches = [*loader]
        rebuilt = torch.utils.data.DataLoader(
            several, loader.batch_size, sampler=loader.sampler, collate_fn=several.collate
        )
        loader.set_epoch(0)
        for batch, other in zip(batches, rebuilt, strict=True):
            assert batch.keys() == other.keys()
            assert ("cu_seqlens" in batch) == mask
            for name, value in batch.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name
            real = batch["labels"][:, 0] != -100
            assert torch.equal(batch["labels"][real, 0], batch["input_ids"][real, 1])


def test_packed_rows_count_with_the_tokens_that_are_in_them(tmp_path: Path) -> None:
    uris = {}
    for number, name in enumerate("ab"):
        uris[name] = source(str(tmp_path / name), number, 60 + 100 * number).uri
        assert main(["pack", uris[name], "--seq-len", str(SEQ_LEN)]) == 0
    several = Mixture({name: (uri, 1) for name, uri in uris.items()}, SEQ_LEN, packing="best_fit")
    datasets = [part.dataset for part in several.parts]
    a, b = (Fraction(dataset.samples, dataset.stream.tokens) for dataset in datasets)
    assert several.shares.weights == (a / (a + b), b / (a + b))
    batches = [*mixture_loader(several, 8, True)]
    assert all("attention_mask" in batch for batch in batches)
    assert main(["pack", uris["a"], "--seq-len", str(SEQ_LEN), "--packing", "none"]) == 0
    with pytest.raises(ValueError, match="packing='none' does not go with a Mixture"):
        Mixture({"a": (uris["a"], 1)}, SEQ_LEN, packing="none")


def test_sources_of_different_options_are_refused(tmp_path: Path) -> None:
    uris = [source(str(tmp_path / name), n, 20).uri for n, name in enumerate("ab")]
    pairs = {
        "a": (TokenDataset(uris[0], SEQ_LEN), 1),
        "b": (TokenDataset(uris[1], SEQ_LEN, labels="next"), 1),
    }
    with pytest.raises(
        ValueError,
        match=r"differ: labels is 'same' and 'next'\. Make",
    ):
        Mixture(pairs)


def test_it_and_its_loader_say_what_they_are_in_a_line(tmp_path: Path) -> None:
    mixed = mixture(tmp_path, {"web": 200, "code": 40}, {"web": 3, "code": 1})
    uris = [part.dataset.uri for part in mixed.parts]
    shown = (
        f"Mixture({{'code': ({uris[0]!r}, 0.25), 'web': ({uris[1]!r}, 0.75)}}, seq_len=16, "
        "unit='tokens'): 240 samples an epoch, 3,850 tokens"
    )
    assert repr(mixed) == shown
    loader = mixture_loader(mixed, 8, True)
    for _ in islice(loader.repeat(), 32):
        pass
    standing = "rank 0 of 1): epoch 1, step 2 of 30"
    assert repr(loader) == f"MixtureLoader(batch_size=8, shuffle=True, {standing}, over {shown}"


def test_a_mixture_without_a_batch_says_so_where_the_loop_is(tmp_path: Path) -> None:
    mixed = mixture(tmp_path, {"a": 20, "b": 20}, {"a": 1, "b": 1})
    loader = ranks(mixed, 2, 80, drop_last=True)[0]
    words = "drop_last=True, and 40 samples are less than batch_size 40 x 2 ranks = 80"
    with pytest.warns(UserWarning, match=words) as warned:
        assert list(loader) == []
    assert [one.filename for one in warned] == [__file__]
