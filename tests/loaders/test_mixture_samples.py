"""A Mixture's rows have the keys and labels of its sources, whatever those are."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data

from loaders import Mixture, TokenDataset
from loaders.pack import make_packs
from tests.loaders.documents import natural_lengths, write_documents
from tests.loaders.mixtures import mixture_loader
from tests.loaders.restoring import equal

SEQ_LEN = 64
OPTIONS: dict[str, dict[str, Any]] = {
    "next": {"labels": "next"},
    "documents": {"document_mask": True},
    "packed": {"packing": "best_fit"},
    "all": {"packing": "best_fit", "labels": "next", "document_mask": True},
}


@pytest.fixture(scope="module")
def uris(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("mixture-samples")
    uris = [str(folder / name) for name in ("web", "code")]
    for number, uri in enumerate(uris):
        lengths = natural_lengths(300, seed=number)
        write_documents(uri, [lengths], first_token=1 + 1_000_000 * number)
        make_packs(uri, SEQ_LEN, rows=16)
    return uris


def mixed(uris: list[str], **options: Any) -> Mixture:
    web, code = (TokenDataset(uri, SEQ_LEN, **options) for uri in uris)
    return Mixture({"web": (web, 0.7), "code": (code, 0.3)})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_rows_are_those_of_the_sources_with_all_their_keys(
    uris: list[str], options: dict[str, Any]
) -> None:
    mixture = mixed(uris, **options)
    samples = {tuple(sample["input_ids"].tolist()): sample for sample in mixture[: len(mixture)]}
    loader = mixture_loader(mixture, 8, True, data_parallel_rank=2, data_parallel_size=3)
    theirs = torch.utils.data.DataLoader(
        mixture, 8, sampler=loader.sampler, collate_fn=loader.collate_fn
    )
    for batch, other in zip(loader, theirs, strict=True):
        assert batch.keys() == other.keys()
        for name in mixture.form.keys:
            for ids, row in zip(batch["input_ids"], batch[name], strict=True):
                if ids.any():
                    assert torch.equal(row, samples[tuple(ids.tolist())][name]), name
        assert all(equal(batch[name], other[name]) for name in batch)
        if mixture.form.document_mask:
            bounds = np.flatnonzero(batch["position_ids"].numpy() == 0).tolist()
            assert batch["cu_seqlens"].tolist() == [*bounds, batch["input_ids"].numel()]


def test_sources_of_different_rows_are_refused(uris: list[str]) -> None:
    web, code = TokenDataset(uris[0], SEQ_LEN), TokenDataset(uris[1], SEQ_LEN, labels="next")
    with pytest.raises(ValueError, match=r"sources 'code' and 'web' differ.*same options"):
        Mixture({"web": (web, 0.7), "code": (code, 0.3)})
    for uri in uris:
        make_packs(uri, SEQ_LEN, packing="none")
    with pytest.raises(ValueError, match="packing='none' does not go with a Mixture"):
        mixed(uris, packing="none")
