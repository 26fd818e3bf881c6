"""The end-of-job report: what a run did and took, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cost import C8G_16XLARGE, Projection, project
from pipelines.job import run
from pipelines.options import Options
from pipelines.progress import Meter
from pipelines.summary import usage_lines
from pipelines.tasks import Outcome
from pipelines.usage import Stopwatch, Usage
from shards.receipt import Counts, Receipt
from tests.pipelines.tokenizers_by_hand import blob, pair_tokenizer

TEXTS = [f"document {i}: {'word ' * (i * 7 % 40)}" for i in range(900)]
USAGE = Usage(
    cores=2,
    units=20,
    input_bytes=400_000_000,
    text_bytes=1_000_000_000,
    shard_bytes=500_000_000,
    tokens=250_000_000,
    start_s=5,
    tasks_s=9,
    finish_s=1,
    unit_s=16,
    unit_cpu_s=12,
    steady_mb_per_s=160.0,
    peak_rss=700 << 20,
    audited=3,
    retries=0,
)


def outcome(unit: int, ended: float, text_bytes: int, **more: Any) -> Outcome:
    receipt = Receipt(unit, Counts(text_bytes=text_bytes, tokens=text_bytes // 4), ())
    return Outcome(unit, receipt, ended=ended, seconds=1.0, **more)


# --- what it took ------------------------------------------------------------------------------


def test_rates_count_text_and_the_time_from_the_first_task_to_the_commit() -> None:
    assert USAGE.text_mb_per_s == pytest.approx(100)
    assert USAGE.tokens_per_s == pytest.approx(25e6)
    assert USAGE.cpu_s_per_gb == pytest.approx(12)
    assert USAGE.mb_per_s_per_core == pytest.approx(80)
    assert replace(USAGE, steady_mb_per_s=None).mb_per_s_per_core == pytest.approx(1000 / 9 / 2)


def test_shares_of_slots_say_where_the_cores_were() -> None:
    assert USAGE.slots == pytest.approx({"on_cpu": 12 / 18, "waiting": 4 / 18, "no_unit": 2 / 18})


@given(
    cores=st.floats(1, 1e5),
    tasks_s=st.floats(0, 1e6),
    unit_s=st.floats(0, 1e8),
    unit_cpu_s=st.floats(0, 1e8),
)
def test_shares_of_slots_add_up_to_one(**times: float) -> None:
    # Clocks of other machines, rounding: a unit may seem to take more than there was.
    shares = replace(USAGE, **times).slots  # type: ignore[arg-type]
    assert all(0 <= share <= 1 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)


def test_the_steady_rate_is_that_while_all_cores_were_at_work() -> None:
    watch = Stopwatch()
    watch.tasks_start(cores=2)
    # One worker is there at 104, the other at 110; then each does a unit of 10 MB a second. The
    # first one's last task begins at 116 and takes until 120, when the other has nothing to do.
    first = [(100.0, 104.0 + unit) for unit in range(12)]
    other = [(100.5, 110.0 + unit) for unit in range(7)]
    rest = [(116.0, 117.0 + unit) for unit in range(4)]
    for number, (began, ended) in enumerate([*first, *other, *rest]):
        watch.add(outcome(number, ended, 10_000_000, task_began=began), 5_000_000)
    watch.tasks_end(cores=2, retries=3)
    usage = watch.usage()
    assert usage.steady_mb_per_s == pytest.approx((5 + 6) * 10 / 6)
    assert (usage.units, usage.input_bytes, usage.retries) == (23, 115_000_000, 3)


def test_few_units_have_no_steady_rate() -> None:
    watch = Stopwatch()
    watch.tasks_start(cores=2)
    for unit in range(7):
        watch.add(outcome(unit, 100.0 + unit, 1, task_began=99.0 + unit), 1)
    assert watch.usage().steady_mb_per_s is None


def test_the_largest_workers_memory_counts_and_the_sums_of_cpu_and_audit() -> None:
    watch = Stopwatch()
    watch.tasks_start(cores=1)
    for unit, peak in enumerate([5, 9, 7]):
        watch.add(outcome(unit, 1.0, 1, peak_rss=peak, cpu_seconds=0.5, audited=2), 1)
    assert watch.usage().peak_rss == 9
    assert watch.usage().unit_cpu_s == pytest.approx(1.5)
    assert watch.usage().audited == 6


def test_a_unit_begun_again_is_a_retry() -> None:
    meter = Meter()
    for units in ([0, 1], [1], [2, 1]):
        meter.begin(units)
    assert meter.retries() == 2


# --- what it would cost ------------------------------------------------------------------------


def projected(**changes: Any) -> Projection:
    known: dict[str, Any] = {
        "text_bytes": 4_000,
        "tokens": 1_000,
        "input_bytes": 2_000,
        "shard_bytes": 2_000,
        "mb_per_s_per_core": 10.0,
    }
    found = project(**known | changes)
    assert found is not None
    return found


def test_a_slow_encoder_is_bound_by_the_machines_cores() -> None:
    found = projected()
    assert found.bound == "cores"
    assert found.text_mb_per_s == pytest.approx(640)
    # 4e12 bytes of text at 640e6 a second.
    assert found.hours == pytest.approx(4e12 / 640e6 / 3600)
    assert found.usd == pytest.approx(found.hours * 2.5523)


def test_a_fast_encoder_is_bound_by_the_machines_network() -> None:
    # 30 Gb/s = 3,750 MB/s; half a byte goes over the network for a byte of text.
    found = projected(mb_per_s_per_core=200.0)
    assert found.bound == "network"
    assert found.text_mb_per_s == pytest.approx(7_500)
    assert projected(mb_per_s_per_core=200.0, shard_bytes=4_000).text_mb_per_s == pytest.approx(
        3_750
    )


def test_the_projection_says_what_it_is_and_when_the_price_was_read() -> None:
    assert (C8G_16XLARGE.cores, C8G_16XLARGE.gigabits_per_s) == (64, 30)
    text = str(projected())
    assert "projection from this machine's cores" in text
    assert "2026-07-20" in text
    assert "c8g.16xlarge" in text


def test_a_run_too_small_to_tell_projects_nothing() -> None:
    assert replace(USAGE, text_bytes=1_000_000).projection is None
    assert USAGE.projection is not None
    assert not any("cost" in line for line in usage_lines(replace(USAGE, text_bytes=1_000_000)))
    assert any("cost" in line for line in usage_lines(USAGE))


# --- a real job --------------------------------------------------------------------------------


@pytest.mark.usefixtures("local_ray")
def test_a_jobs_report_json_has_what_it_did_and_took(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(blob(pair_tokenizer()))
    for name in ("a", "b"):
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / f"{name}.parquet", row_group_size=100)
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text": \n')
    options = Options(
        inputs=(f"a={tmp_path}/a.parquet", f"b={tmp_path}/b.parquet", f"c={tmp_path}/bad.jsonl"),
        output=str(tmp_path / "out"),
        tokenizer=str(tmp_path / "tokenizer.json"),
        end_token="<|end|>",
        unit_bytes=4_000,
        max_bad_rows=1,
    )
    summary = run(options)
    report = json.loads((tmp_path / "out" / summary.log).read_text())

    assert report["version"] == 1
    assert report["plan"] == summary.plan
    assert report["counts"]["quarantined"] == 1
    documents = {source: one["documents"] for source, one in report["totals"]["train"].items()}
    assert documents == {"a": 900, "b": 900, "c": 1}
    units = report["units"]
    assert units["planned"] == units["done_now"] > 4
    assert (units["done_before"], units["begun_again"]) == (0, 0)
    assert report["bytes"]["text"] == report["counts"]["text_bytes"]
    assert report["bytes"]["input"] == sum(
        (tmp_path / name).stat().st_size for name in ("a.parquet", "b.parquet", "bad.jsonl")
    )
    assert report["tokens"] == report["counts"]["tokens"]
    assert report["cores"] == 2
    assert report["unit_cpu_seconds"] > 0
    assert report["peak_rss_bytes"] > 50 << 20
    assert report["text_mb_per_s_per_core"] > 0
    assert sum(report["slots"].values()) == pytest.approx(1, abs=1e-3)
    assert report["projection"] is None
    assert "CPU-s a GB" in str(summary)
    assert summary.log in str(summary)

    again = run(options)
    assert again.nothing_to_do
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 1
