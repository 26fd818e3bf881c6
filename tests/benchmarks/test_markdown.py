"""The report for a pull request, as a Markdown reader sees it."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from benchmarks.starvation.reports.compare import compare
from benchmarks.starvation.reports.markdown import markdown, text
from tests.benchmarks.reports import changed_report, example_report
from tests.benchmarks.support import report
from tests.benchmarks.test_page import hostile

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def words(page: str) -> str:
    """What is read, without its form."""
    bare = re.sub(r"<!--.*?-->", "", page)
    bare = re.sub(r"<[^>]+>", " ", bare)
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        bare = bare.replace(entity, sign)
    return " ".join(bare.split())


def test_the_verdict_comes_first_then_a_row_for_each_contender():
    given = example_report()
    page = READER.render(markdown(given))
    assert words(page).startswith(f"Starvation: {given.finding} {given.accelerator}, uncalibrated.")
    rows = re.findall(r"<tr>(.*?)</tr>", page.partition("</table>")[0], re.DOTALL)
    assert [words(row) for row in rows[1:]] == [
        "batch already there 0.00 % [0.00, 0.00] - 0.10 % 100 % 666 ktok/s -",
        "Stoker 0.90 % [0.87, 0.93] I/O latency 1.0 % 99 % 660 ktok/s 67.5x",
        "inline tokenization 24.60 % [23.86, 25.34] heavy preprocessing 28 % 18 % 120 ktok/s 0.6x",
    ]
    assert "Pack documents into rows" in page
    assert "failed: PCIe" in page
    assert "MosaicML Streaming left out" in page


def test_doubts_are_said():
    base = example_report()
    bad = replace(base.results[1], spread=0.2, figures=replace(
        base.results[1].figures, overshoot_share=0.02))  # fmt: skip
    assert base.ladder is not None
    said = markdown(replace(base, results=(bad,), ladder=replace(base.ladder, difference=0.03)))
    for doubt in ("**Invalid**", "**Unstable**", "**do not agree"):
        assert doubt in said
        assert doubt not in markdown(base)


def test_few_steps_are_said_with_whose_they_are():
    base = example_report()
    few = replace(base.results[2], figures=replace(base.results[2].figures, steps=20))
    said = words(READER.render(markdown(replace(base, results=(*base.results[:2], few)))))
    assert "only 20 of 200 steps were measured (--seconds): inline tokenization." in said


def test_a_comparison_is_a_table_of_judgements():
    base = example_report()
    said = markdown(base, compare(json.loads(base.to_json()), base))
    assert said.count("| noise |") == 21


def test_a_comparison_says_first_why_to_doubt_it_and_last_what_is_noise():
    said = markdown(changed_report(), compare(example_report().document(), changed_report()))
    order = ["2 better, 1 worse", "newer report is unstable", "Graviton", "| worse |", "| noise |"]
    assert sorted(order, key=said.index) == order


@given(st.text())
@example("[a](b) ![c](d) [e] `f` **g** _h_ ~~i~~ <b>j</b> k|l &amp; \\")
@example("# a")
@example("- a")
@example("+ a")
@example("12. a")
@example("===")
@example("http://a.b www.a.b @a")
def test_any_text_is_read_as_it_is(given):
    seen = html.unescape(re.sub(r"<!--.*?-->|</?p>", "", READER.render(text(given)))).strip()
    line = " ".join(given.split())
    assert seen == "".join(c if c.isprintable() else "\ufffd" for c in line)


def test_hostile_names_make_no_markup():
    tame, wild = (READER.render(markdown(each)) for each in (report(), hostile(report())))
    assert "<script>alert" not in wild
    assert "<img" not in wild

    def tags(page: str) -> set[str]:
        return set(re.findall(r"<(\w+)", page))

    assert tags(wild) == tags(tame)
