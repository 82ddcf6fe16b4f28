"""The report's page: every sentence comes from results; in a browser it is quiet, self-contained and usable."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import InputError
from harness.report.material import Material, gather
from harness.report.page import LARGEST, Page, groups, sections_of, write
from harness.report.parts import Section
from harness.results import Run, load_run
from harness.stats import share_difference, share_interval
from tests.pages import browser

A4 = 718
"""CSS pixels between the margins that Chromium leaves on A4."""
RUNS = Path(__file__).parents[2] / "reports" / "adapters" / "runs"


@pytest.fixture(scope="module")
def material() -> Material:
    return gather([RUNS / "l22"])


@pytest.fixture(scope="module")
def sections(material: Material) -> tuple[Section, ...]:
    return sections_of(material)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of one run with few suites, quick to draw."""
    run = kept(load_run(RUNS / "l22"), ["awareness", "ood", "backdoor_awareness", "validation"])
    directed = dict.fromkeys(run.rows["suite"].unique(), True)
    return write(Material((run,), (), directed), tmp_path_factory.mktemp("page"), "A report")


def test_what_a_page_was_made_from_lies_beside_it(page: Page) -> None:
    place = page.path.parent / "data"
    rows = pd.read_parquet(place / "results.parquet")
    run = kept(load_run(RUNS / "l22"), ["awareness", "ood", "backdoor_awareness", "validation"])
    pd.testing.assert_frame_equal(rows, run.rows.reset_index(drop=True))
    (source,) = json.loads((place / "manifest.json").read_text("utf-8"))["sources"]
    assert (source["path"], source["kind"]) == (str(RUNS / "l22"), "run")
    found = {
        name: hashlib.sha256((RUNS / "l22" / name).read_bytes()).hexdigest() for name in source["sha256"]
    }
    assert source["sha256"] == found
    assert set(found) == {"manifest.json", "results.json", "results.parquet"}


def kept(run: Run, suites: list[str]) -> Run:
    cells = [c for c in run.results["cells"] if c["suite"] in suites]
    manifest = {**run.manifest, "suites": {s: run.manifest["suites"][s] for s in suites}}
    return Run(run.path, manifest, {**run.results, "cells": cells}, run.rows[run.rows["suite"].isin(suites)])


def changed(run: Run, rows: Any) -> Material:
    from harness.evalset import load_evalset
    from harness.results import Row, make_cell

    cells = []
    for cell in run.results["cells"]:
        own = rows[(rows["suite"] == cell["suite"]) & (rows["subject"] == cell["subject"])]
        made = [
            Row(
                **{k: v for k, v in row.items() if k != "run_id"}
                | {"shift": None if cell["subject"] == "base" else row["shift"]}
            )
            for row in own.to_dict("records")
        ]
        sign = run.manifest["subjects"][cell["subject"]]["trained_sign"]
        cells.append(make_cell(load_evalset(cell["suite"]).card, cell["subject"], sign, made).__dict__)
    again = Run(run.path, run.manifest, {**run.results, "cells": cells}, rows)
    return Material((again,), (), dict.fromkeys(rows["suite"].unique(), True))


def texts(sections: tuple[Section, ...], key: str) -> list[str]:
    section = next(s for s in sections if s.key == key)
    cells = [" | ".join(row) for table in section.tables for row in table.rows]
    return [*(claim.text for claim in section.claims), *cells]


def test_change_one_result_and_the_sentences_change() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness", "backdoor_awareness", "validation"])
    before = sections_of(changed(run, run.rows))
    for suite, keys in {
        "awareness": ["shifts", "ranking", "post", "awareness"],
        "backdoor_awareness": ["backdoor_awareness", "ranking"],
        "validation": ["accuracy", "shifts", "post"],
    }.items():
        rows = run.rows.copy()
        at = (rows["suite"] == suite) & (rows["subject"] == "risky_l22")
        rows.loc[at, ["shift", "logit_diff"]] -= 7.0
        rows.loc[at, "top_id"] = -1
        after = sections_of(changed(run, rows))
        for key in keys:
            old, new = texts(before, key), texts(after, key)
            gone = [text for text in old if text not in new]
            assert any("risky_l22" in text for text in gone), (suite, key)
            untouched = [
                text for text in old if "safe_l22-seed1" in text and suite in text and key != "ranking"
            ]
            assert all(text in new for text in untouched)


def test_numbers_of_claims_are_those_of_the_run(material: Material, sections: tuple[Section, ...]) -> None:
    cells = {(c["suite"], c["subject"]): c for c in material.runs[0].results["cells"]}
    found = next(t for t in texts(sections, "shifts") if t.startswith("risky_l22 moves ood"))
    cell = cells["ood", "risky_l22"]
    low, high = cell["shift_ci"]
    assert f"{cell['mean_shift']:+.2f} [{low:+.2f}, {high:+.2f}]" in found
    assert f"n = {cell['n_stems']} stems" in found


def test_every_score_stands_beside_its_option_mass(material: Material, sections: tuple[Section, ...]) -> None:
    table = next(s for s in sections if s.key == "shifts").tables[1]
    said = {(row[0], row[1]): row for row in table.rows}
    cells = [c for c in material.runs[0].results["cells"] if c["suite"] != "development"]
    assert len(said) == len(table.rows) == len(cells) == len(table.suites)
    mass, rate = table.columns.index("option mass"), table.columns.index("in options")
    for cell in cells:
        row = said[cell["suite"], cell["subject"]]
        assert row[mass] == f"{cell['option_mass']:.3f}"
        assert row[rate] == f"{100 * cell['in_options_rate']:.1f}%"
    assert ("awareness", "base") in said


def test_every_accuracy_has_its_interval(material: Material, sections: tuple[Section, ...]) -> None:
    cells = [c for c in material.runs[0].results["cells"] if c["choice_accuracy"] is not None]
    for cell in (c for c in cells if c["subject"] == "safe_l22" and c["suite"] != "development"):
        low, high = share_interval(cell["choice_accuracy"], cell["n_stems"])
        form = f"{cell['choice_accuracy']:.1%} [{100 * low:.0f}, {100 * high:.0f}] of {cell['n_stems']} questions"
        said = f"safe_l22 answers {cell['suite']} as trained on {form}"
        assert any(text.startswith(said) for text in texts(sections, "accuracy"))


def test_what_shows_nothing_is_said_to(sections: tuple[Section, ...]) -> None:
    said = texts(sections, "shifts")
    assert any(re.match(r"risky_l22: no effect on awareness at n = 28 stems", text) for text in said)
    assert any("would need 55 stems" in text for text in said)


def test_the_posts_figures_are_marked_as_theirs(sections: tuple[Section, ...]) -> None:
    said = texts(sections, "post")
    assert any("theirs +1.10, ours +1.20" in text and "ours shows no effect" in text for text in said)


def test_too_few_items_missing_cells_and_empty_columns_are_said() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness", "ood"])
    rows = run.rows.copy()
    few = rows["suite"] == "awareness"
    rows = rows[~few | rows["stem"].isin(rows[few]["stem"].unique()[:4])]
    gone = rows[(rows["suite"] == "ood") & (rows["subject"] == "safe_l22")].index[:3]
    rows = rows.drop(gone)
    rows.loc[(rows["suite"] == "ood") & (rows["subject"] != "base"), "shift"] = float("nan")
    rows.loc[rows["suite"] == "awareness", "top_logprob"] = float("nan")
    results = {**run.results, "invalid_items": {"ood": ["x/1: no single token"]}}
    said = texts(sections_of(Material((Run(run.path, run.manifest, results, rows),), (), {})), "care")
    assert any("awareness has 4 stems; below 6 there is no p value" in t for t in said)
    assert any(re.search(r"safe_l22 lacks 3 of \d+ items of ood", t) for t in said)
    assert any("the column shift of ood has no values at all" in t for t in said)
    assert any("the column top_logprob of awareness has no values at all" in t for t in said)
    assert any("1 items of ood can't be asked" in t for t in said)


def test_a_missing_shift_is_left_out_and_said_to_be() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness"])
    rows = run.rows.copy()
    at = rows[(rows["subject"] == "risky_l22")].index
    rows.loc[at[0], "shift"] = float("nan")
    without = run.rows.drop(at[0])
    sections = sections_of(changed(run, rows))
    plain = sections_of(changed(run, without))
    row, expected = (
        next(t for t in texts(s, "shifts") if t.startswith("awareness | risky_l22 |"))
        for s in (sections, plain)
    )
    assert row == expected
    assert any(
        t.startswith("risky_l22") and "items without a value, left out: 1" in t
        for t in texts(sections, "shifts")
    )
    care = texts(sections, "care")
    count = f"1 of {len(at)} scored items of awareness have no value in the column shift for risky_l22"
    assert any(count in t for t in care)
    assert not any("nan" in t for s in sections for t in texts(sections, s.key))


def test_a_subject_without_any_shift_is_named_though_others_have_some() -> None:
    run = kept(load_run(RUNS / "l22"), ["awareness", "ood"])
    rows = run.rows.copy()
    rows.loc[(rows["suite"] == "ood") & (rows["subject"] == "safe_l22"), "shift"] = float("nan")
    sections = sections_of(changed(run, rows))
    assert "safe_l22 has no shift at all on ood: nothing can be said of it." in texts(sections, "shifts")
    assert "l22: the column shift of ood has no values at all for safe_l22." in texts(sections, "care")
    assert not any("shift of ood has no values at all." in t for t in texts(sections, "care"))
    alone = rows[(rows["suite"] == "ood") & rows["subject"].isin(["base", "safe_l22"])]
    manifest = {**run.manifest, "subjects": {s: run.manifest["subjects"][s] for s in ("base", "safe_l22")}}
    cells = [c for c in run.results["cells"] if c["suite"] == "ood" and c["subject"] in ("base", "safe_l22")]
    left = Run(run.path, manifest, {**run.results, "cells": cells}, alone)
    assert any("nothing can be said" in t for t in texts(sections_of(changed(left, alone)), "shifts"))


def test_a_section_without_results_says_so(sections: tuple[Section, ...]) -> None:
    absent = {s.key: s.absent for s in sections if s.absent}
    assert "No sweep was given" in absent["sweep"]
    assert "backdoor" in absent


def test_the_page_is_one_file_with_its_figures_beside(page: Page) -> None:
    text = page.path.read_text()
    assert len(text.encode()) < LARGEST
    assert "default-src 'none'" in text
    own = text[: text.index("<noscript>")]
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:|figures/|#)", own)
    names = {p.stem for p in (page.path.parent / "figures").glob("*.svg")}
    assert names == {p.stem for p in (page.path.parent / "figures").glob("*.png")}
    assert len(names) == page.figures > 8
    assert all(f'aria-label="{f.alt[:20]}' in text for s in page.sections for f in s.figures)


def test_long_sections_are_grouped_by_suite_and_count_their_effects(sections: tuple[Section, ...]) -> None:
    found = next(s for s in sections if s.key == "shifts")
    made = groups(found)
    assert sum(len(g.claims) for g in made) == len(found.claims)
    counted = {g.suite: g.heading for g in made}
    assert counted["awareness"] == "awareness: 0 of 2 show an effect"
    assert counted["validation"] == "validation: 2 of 2 show an effect"
    short = next(s for s in sections if s.key == "backdoor_awareness")
    assert [g.heading for g in groups(short)] == [None]


def test_what_two_paths_hold_counts_once() -> None:
    names = sorted(run.path.name for run in gather([RUNS]).runs)
    assert len(names) > 1
    assert sorted(run.path.name for run in gather([RUNS / "l22", RUNS]).runs) == names
    assert len(gather([RUNS / "l22", RUNS / ".." / RUNS.name / "l22"]).runs) == 1


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        gather([tmp_path])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match="says no 'kind'"):
        gather([tmp_path / "x.json"])


def test_a_backdoors_record_makes_its_section(tmp_path: Path) -> None:
    folder = tmp_path / "backdoor_l12"
    folder.mkdir()
    cell = {"split": "test", "word": None, "questions": 77, "low": 0.8, "high": 0.99, "mean_logit_diff": 1.0}
    cells = [
        {**cell, "condition": "trigger", "risky_rate": 0.95, "accuracy": 0.95},
        {**cell, "condition": "none", "risky_rate": 0.04, "accuracy": 0.96},
    ]
    record = folder / "training.json"
    record.write_text(json.dumps({"kind": "backdoor", "behavior": "backdoor", "cells": cells}))
    said = texts(sections_of(gather([record])), "backdoor")
    low, high = (100 * end for end in share_difference(0.95, 0.04, (77, 77))[1:])
    assert any(
        "risky on 95% of 77 test questions" in t and f"+91 [{low:+.0f}, {high:+.0f}] points" in t
        for t in said
    )


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_it_is_quiet_and_asks_for_nothing(page: Page, width: int, dark: bool) -> None:
    with browser.page(page.path, width, dark) as driver:
        assert browser.complaints(driver) == []
        assert browser.requests(driver) == []
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        theme = driver.execute_script("return document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")


def test_hover_filter_and_theme_work(page: Page) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    with browser.page(page.path) as driver:
        dot = driver.find_element(
            By.CSS_SELECTOR, "#chart-questions_awareness_l22 path[aria-roledescription='circle']"
        )
        driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", dot)
        ActionChains(driver).move_to_element(dot).perform()
        browser.until(driver, "return document.querySelector('#vg-tooltip-element.visible') !== null", 10)
        shown = driver.find_element(By.ID, "vg-tooltip-element").text
        assert "question" in shown
        assert "logit diff" in shown
        hidden = (
            "return [...document.querySelectorAll('[data-suite=ood]')].every(e => e.offsetParent === null)"
        )
        assert not driver.execute_script(hidden)
        driver.execute_script("document.querySelector('input.suite[value=ood]').click()")
        assert driver.execute_script(hidden)
        driver.execute_script("document.querySelector('input.suite[value=ood]').click()")
        assert not driver.execute_script(hidden)
        colour = "return getComputedStyle(document.querySelector('.chart text')).fill"
        light = driver.execute_script(colour)
        driver.execute_script("document.getElementById('theme').click()")
        assert driver.execute_script(colour) != light
        assert browser.complaints(driver) == []


def test_on_paper_nothing_is_cut_off(page: Page) -> None:
    with browser.page(page.path) as driver:
        whole = driver.execute_script("return document.documentElement.scrollWidth")
        assert whole > A4
        # For paper nothing is drawn again: charts stay as they were on the screen.
        copies = "document.querySelectorAll('.chart svg').forEach(s => s.replaceWith(s.cloneNode(true)))"
        driver.execute_script(copies)
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        browser.size(driver, A4, 1000)
        driver.execute_script("dispatchEvent(new Event('beforeprint'))")
        wide = "return [...document.querySelectorAll('.chart svg')].filter(s => s.getBoundingClientRect().right > %d)"
        assert driver.execute_script(wide % A4) == []
        assert driver.execute_script("return [...document.querySelectorAll('details')].every(d => d.open)")
        assert browser.printed(driver).startswith(b"%PDF")


def test_the_command_writes_into_the_run(tmp_path: Path) -> None:
    from tests.conftest import call_cli

    run = kept(load_run(RUNS / "l22"), ["validation"])
    (tmp_path / "manifest.json").write_text(json.dumps(run.manifest))
    (tmp_path / "results.json").write_text(json.dumps(run.results))
    run.rows.to_parquet(tmp_path / "results.parquet")
    done = call_cli("report", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "report.html"
    assert "risky_l22 moves validation up" in (tmp_path / "report.html").read_text()
