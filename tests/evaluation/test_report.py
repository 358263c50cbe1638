"""report.html as a person meets it: opened in a real browser, without network, on light and dark ground."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prediction_cases import forecasts, shifted

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast import figures, metrics
from raycadian.evaluation.forecast.calibration import adaptive_conformal, coverage_by_subject
from raycadian.evaluation.forecast.compare import leaderboard
from raycadian.evaluation.forecast.error_grids import GRIDS
from raycadian.evaluation.forecast.event_probability import fit_lows
from raycadian.evaluation.forecast.event_scores import probability_scores
from raycadian.evaluation.forecast.metrics import score
from raycadian.evaluation.forecast.report import sections
from raycadian.evaluation.report import write_report

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")
INSIGHTS = [{"subject": "person-0", "d": "0.62: delayed", "meals": "7.1 h, 12.0 h", "fit RMSE, mg/dL": 21.234}]
METADATA = {
    "status": "complete",
    "training": {"best": 3, "history": [{"loss": 1.0}] * 50},
    "versions": {"torch": "2.10"},
}


def report(folder: Path, named: dict, insights=None, validation=None, **board) -> Path:
    shown = sections(named, leaderboard(named, **board), insights, validation)
    return write_report(
        folder, title="a run", subtitle="of a test", sections=shown, metadata=METADATA, definitions=metrics.__doc__
    )


@pytest.fixture(scope="module")
def named():
    p = forecasts(people=4, windows=30)
    return {"residual-ttm": p, "ridge": shifted(p, 12)}


@pytest.fixture(scope="module")
def validation():
    return forecasts(people=4, windows=30, seed=1)


@pytest.fixture(scope="module")
def path(named, validation, tmp_path_factory):
    return report(tmp_path_factory.mktemp("report"), named, INSIGHTS, validation)


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is absent (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, path: Path, **options):
    """The page, the addresses that it asked for, and what it complained about."""
    page = browser.new_page(**options)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    return page, requests, complaints


def test_opens_offline_with_all_its_parts(browser, path):
    page, requests, complaints = opened(browser, path)
    assert [r for r in requests if not r.startswith("data:")] == [path.as_uri()]
    assert complaints == []
    assert page.locator("h2").all_inner_texts() == [
        "At a glance",
        "Leaderboard",
        "What is better",
        "Example forecasts",
        "Error by horizon",
        "Seen and held-out people",
        "Error by hour of day",
        "Error grids",
        "Lows and highs",
        "Probability of a low",
        "Glucose of each person",
        "Calibration",
        "Mechanism in words",
        "All scores",
        "Run",
        "Definitions",
    ]
    assert page.locator("figure").count() == 8  # five, and the grids of three kinds
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    for figure in page.locator("figure").all():
        box = figure.locator("svg").bounding_box()
        assert box["width"] > 600 and box["height"] > 150
        caption = figure.locator("figcaption").inner_text()
        assert figure.locator("svg").get_attribute("aria-label") == caption and len(caption) > 40
    page.close()


def test_nothing_overflows_a_telephone(browser, path):
    page, *_ = opened(browser, path, viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const lum = c => rgb(c).slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + .05) / (y + .05) };
  return [...document.querySelectorAll('figure')].flatMap(f => {
    const ground = getComputedStyle(f).backgroundColor;
    const texts = [...f.querySelectorAll('svg text')].map(t => ratio(getComputedStyle(t).fill, ground));
    return [...texts, ratio(getComputedStyle(f.querySelector('figcaption small')).color, ground)];
  })
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_in_figures_reads_on_its_ground(browser, path, scheme):
    page, *_ = opened(browser, path, color_scheme=scheme)
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 100 and min(ratios) >= 4.5  # WCAG 2.1 AA
    page.close()


def test_numbers_are_those_of_the_scores(path, named):
    html = path.read_text(encoding="utf-8")
    for p in named.values():
        table = score(p)
        table = table[table.scope == "all"]
        rows = table[(table.metric == "rmse_mgdl") & (table.horizon_min == 60)]
        whole = rows[rows.kind == "cumulative"].iloc[0]
        assert f"{whole.value:.2f} [{whole.low:.2f}, {whole.high:.2f}]" in html
    own = score(named["residual-ttm"])
    alarm = own[(own.scope == "all") & (own.metric == "hypo70_sensitivity_pct")].iloc[0]
    assert 0 < alarm.value < 100 and f"{alarm.value:.1f} [{alarm.low:.1f}, {alarm.high:.1f}]" in html
    at = rows[rows.kind == "step"].iloc[0]
    assert f"<td>{at.value:.2f}</td>" in html
    assert "worse" in html and "0.62: delayed" in html and "Not a diagnosis" in html and "versions.torch" in html
    assert "training.history" not in html


def test_clinical_numbers_are_those_of_the_scores(path, named, validation):
    html = path.read_text(encoding="utf-8")
    p = named["residual-ttm"]
    table = score(p).query("scope == 'all'")
    steps = table[(table.kind == "step") & table.horizon_min.isin([30, 60])]
    for metric in ("clarke_a_pct", "parkes1_ab_pct", "parkes2_de_pct"):
        for row in steps[steps.metric == metric].itertuples():
            assert f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]" in html
    for metric, digits in (
        ("hypo70_onset_sensitivity_pct", 1),
        ("hypo70_lead_time_min", 1),
        ("gri_error", 2),
        ("gmi_pct_truth", 1),
    ):
        row = table[table.metric == metric].iloc[0]
        assert f"{row.value:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]" in html
    calibrations, _ = fit_lows(validation)
    scores = probability_scores(p, calibrations).query("scope == 'all'").set_index("metric")
    assert f"{scores.loc['hypo54_probability_brier_discrimination', 'value']:.3f}" in html
    area = scores.loc["hypo70_probability_auroc"]
    assert f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]" in html
    zones = GRIDS["parkes1"].zones(p.truth[:, 11], p.median[:, 11])
    assert f"A {100 * np.mean(zones[zones != ''] == 'A'):.1f}%" in html
    adapted = coverage_by_subject(adaptive_conformal(p, validation))
    assert f"<td>{100 * np.average(adapted.observed, weights=adapted.n):.1f}</td>" in html


def test_a_validation_without_lows_is_said(named, validation, tmp_path):
    high = replace(validation, truth=np.maximum(validation.truth, 120.0))
    html = report(tmp_path, named, validation=high).read_text(encoding="utf-8")
    assert "Not calibrated: hypo70 in 0 of" in html and "AUROC" not in html


def test_the_same_data_give_the_same_page(path, named, validation, tmp_path):
    assert report(tmp_path, named, INSIGHTS, validation).read_bytes() == path.read_bytes()
    assert len(path.read_bytes()) < 2_000_000


def test_names_are_text_not_markup(browser, named, tmp_path):
    p = named["residual-ttm"]
    evil = "<img src=x onerror=alert(1)> $\\frac{"
    p = replace(p, subject=np.where(p.subject == "person-1", evil, p.subject))
    path = report(tmp_path, {"a & <b>": p, "$x$": shifted(p, 5)}, [{"subject": evil, "d": "<b>"}])
    page, requests, complaints = opened(browser, path)
    assert len([r for r in requests if not r.startswith("data:")]) == 1 and complaints == []
    assert page.locator("img").count() == 0 and page.locator("td", has_text="a & <b>").count() > 0
    page.close()


def test_too_few_people_and_nothing_optional(tmp_path):
    """One person, no history, no parts, the median alone: intervals are not invented, absent parts are left out."""
    p = forecasts(people=1, windows=4, levels=[0.5], missing=0.3)
    html = report(tmp_path, {"ridge": replace(p, parts={}, past=None)}).read_text(encoding="utf-8")
    assert "fewer than 3 people" in html
    assert not re.search(r"\d \[\d", html)
    heads = re.findall(r"<h2>(.*?)</h2>", html)
    assert "Mechanism in words" not in heads and "Seen and held-out people" not in heads and "Calibration" in heads
    assert html.count("<figure") == 7 and "Probability of a low" not in heads


def test_a_named_confidence_and_reference_are_said(named, tmp_path):
    html = report(
        tmp_path, named, reference="ridge", metric="mae_mgdl", evaluation=Evaluation(bootstrap=100, confidence=0.8)
    ).read_text()
    assert "80% intervals" in html and "95% intervals" not in html
    assert "The difference is to ridge" in html and "MAE, mg/dL</th>" in html and "better" in html


def test_examples_are_chosen_by_rank_alone():
    p = forecasts(people=2, windows=51, missing=0)
    truth = p.truth.copy()
    truth[7, :7] = np.nan  # less than half of it is measured
    truth[8] = np.nan
    error, chosen = figures._ranked_examples(replace(p, truth=truth))
    ranked = sorted((error[i], i) for i in range(102) if i not in (7, 8))
    assert [i for _, i in chosen] == [ranked[k][1] for k in (0, 25, 50, 74, 94, 99)]
    assert [what for what, _ in chosen][::5] == ["best", "worst"]
    one = p.select(np.arange(1))
    assert [what for what, _ in figures._ranked_examples(one)[1]] == ["worst"]


def test_errors_by_hour_are_those_of_the_hour_measured():
    p = forecasts(people=3, windows=100, missing=0.1)
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=2))
    estimate = people.estimate(*figures._sums_by_hour(p, people), root=True)[0]
    squared: dict[int, list[float]] = {}
    for i in range(len(p)):
        for k in range(12):
            if not np.isnan(p.truth[i, k]):
                hour = int((p.local_h[i] + 5 * (k + 1) / 60) % 24)
                squared.setdefault(hour, []).append((p.median[i, k] - p.truth[i, k]) ** 2)
    for hour in range(24):
        assert estimate[hour] == pytest.approx(np.sqrt(np.mean(squared[hour])))


def test_what_is_better_is_said_in_words(browser, tmp_path):
    p = forecasts(people=5, windows=40)
    shown = browser.new_page()
    shown.goto(report(tmp_path, {"good": p, "off": shifted(p, 12), "far <b>": shifted(p, 40)}).as_uri())
    probability = shown.locator("section", has=shown.get_by_role("heading", name="What is better"))
    items = probability.locator("li").all_inner_texts()
    assert len(items) == 3 and items[0].startswith("good is better than off by ")
    assert any("far <b>" in item for item in items)
    assert "Nemenyi" in probability.locator("figcaption").inner_text() and probability.locator("svg").count() == 1
