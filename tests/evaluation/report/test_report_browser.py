"""The report in a browser: nothing is fetched, nothing fails, every figure is drawn, filters work, a phone can read it.

Needs Chromium, its driver and selenium; skipped without.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb")
pytest.importorskip("plotly")
pytest.importorskip("jinja2")
pytest.importorskip("selenium", reason="selenium is not installed: pip install 'asgc[dev]'")

from selenium import webdriver

from evaluation.meta.meta_cli import main as meta_main
from evaluation.plots.figure import Figure
from evaluation.plots.learned_figures import LearnedData
from evaluation.report import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
DESKTOP, PHONE = (1280, 900), (390, 844)
PATIENCE = 180  # seconds; a browser on a busy machine is slow


class Page:
    """One page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, size: tuple[int, int], dark: bool = False) -> None:
        """Load the report afresh."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        self.until(lambda: self("return document.documentElement.dataset.ready") == "true")

    def __call__(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript."""
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for it."""
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < end, "it does not happen"
            time.sleep(0.05)
        return found

    def click(self, selector: str) -> None:
        """Click the one element with this selector."""
        assert self("return document.querySelectorAll(arguments[0]).length", selector) == 1, selector
        self("document.querySelector(arguments[0]).click()", selector)

    def errors(self) -> list[str]:
        """What the console says that is not mere information."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def draw(self, figure: str) -> None:
        """Scroll to a figure, as a reader does, and wait until all its panels are drawn."""
        plots = f'[data-figure="{figure}"] .panel:not([hidden]) .plot'
        next_one = """const plots = [...document.querySelectorAll(arguments[0])];
            const left = plots.filter((plot) => !plot.querySelector('svg'));
            if (left.length) left[0].scrollIntoView();
            return left.length"""
        self.until(lambda: self(next_one, plots) == 0)

    def lines(self, figure: str) -> list[str]:
        """Names of the series whose points or lines are in the SVG of a figure, one for each panel they are in."""
        return list(
            self(
                """return [...document.querySelectorAll(`[data-figure="${arguments[0]}"] .panel:not([hidden]) .plot`)]
                .flatMap((plot) => [...plot.querySelectorAll('.scatterlayer .trace')]
                    .map((trace) => trace.__data__[0].trace)
                    .filter((trace) => trace.meta === 'series').map((trace) => trace.name))""",
                figure,
            )
        )

    def rows(self, table: str) -> list[dict[str, str]]:
        """Labels of the visible rows of a table."""
        return list(
            self(
                """return [...document.querySelectorAll(`#${arguments[0]} tbody tr:not([hidden])`)]
                .map((row) => ({...row.dataset}))""",
                table,
            )
        )


@pytest.fixture(scope="module")
def report(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    binary = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("no Chromium with its driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    driver.set_script_timeout(PATIENCE)
    driver.set_page_load_timeout(PATIENCE)
    yield Page(driver)
    driver.quit()


@pytest.fixture
def desk(browser: Page, report: Path) -> Page:
    browser.open(report, DESKTOP)
    return browser


def names(contents: page.Contents) -> list[Figure]:
    return [figure for family in contents.families for figure in family]


class TestFirstScreen:
    @pytest.mark.parametrize("size", [(1300, 900), (400, 800)])
    def test_verdicts_and_the_first_figure_are_on_it(self, browser: Page, report: Path, size: tuple[int, int]) -> None:
        browser.open(report, size)
        browser.until(lambda: browser("return document.querySelector('.plot svg') !== null"))
        box = "const box = document.querySelector(arguments[0]).getBoundingClientRect(); return [box.right, box.bottom]"
        for what in (".verdicts .verdict", ".verdicts", "figure .plot"):
            right, bottom = browser(box, what)
            assert right <= size[0], what
            assert bottom <= size[1], what
        assert browser("return document.querySelector('table').getBoundingClientRect().top") > bottom

    def test_a_long_question_does_not_push_it_away(self, browser: Page, report: Path, tmp_path: Path) -> None:
        text = report.read_text()
        long = tmp_path / "long.html"
        question = "Does ASGC learn faster and more steadily than what people use?"
        long.write_text(text.replace(f"<summary>{question}", f"<summary>{question * 12}"))
        browser.open(long, (400, 800))
        assert browser("return document.querySelector('figure .plot').getBoundingClientRect().top") < 600
        browser("document.querySelector('.question').open = true")
        assert browser("return document.querySelector('.question').offsetHeight") > 300


class TestDesktop:
    def test_every_figure_is_drawn_without_an_error(self, desk: Page, contents: page.Contents) -> None:
        for family in contents.families:
            for index, figure in enumerate(family):
                if index:  # the first of a family is shown, the others by the menu
                    desk(
                        """const menu = document.querySelector(`[data-figure="${arguments[0]}"]`).closest('.family')
                        .querySelector('select'); menu.value = arguments[0]; menu.dispatchEvent(new Event('change'))""",
                        figure.name,
                    )
                desk.draw(figure.name)
                expected = sorted(one.label for panel in figure.panels for one in panel.series if one.x.size)
                assert sorted(desk.lines(figure.name)) == expected, figure.name
        assert desk("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []
        assert desk.errors() == []

    def test_lines_have_their_points(self, desk: Page, contents: page.Contents) -> None:
        [figure] = [figure for figure in names(contents) if figure.name == "learning-curves"]
        desk.draw("learning-curves")
        drawn = desk(
            """return [...document.querySelectorAll('[data-figure="learning-curves"] .plot')]
            .map((plot) => plot.data.filter((trace) => trace.meta === 'series').map((one) => [one.name, one.y]))"""
        )
        for panel, lines in zip(figure.panels, drawn, strict=True):
            for one, (label, values) in zip(panel.series, lines, strict=True):
                assert label == one.label
                assert values == pytest.approx(one.y.tolist(), rel=1e-3)

    def test_every_evaluation_is_a_point_on_the_screen(self, desk: Page, contents: page.Contents) -> None:
        [figure] = [figure for figure in names(contents) if figure.name == "learning-curves"]
        desk.draw("learning-curves")
        drawn = """return [...document.querySelectorAll('[data-figure="learning-curves"] .plot')]
            .map((plot) => plot.querySelectorAll('.scatterlayer .points path').length)"""
        assert desk(drawn) == [sum(one.x.size for one in panel.series) for panel in figure.panels]

    def test_a_log_axis_keeps_its_labels_when_zoomed(self, desk: Page) -> None:
        name = "thresholds-CartPole-plain"
        desk.draw(name)
        labels = f"""return [...document.querySelector('[data-figure="{name}"] .plot').querySelectorAll('.ytick text')]
            .map((tick) => tick.textContent)"""
        whole = desk(labels)
        assert len(whole) >= 3
        zoom = f"""const plot = document.querySelector('[data-figure="{name}"] .plot');
            const [low, high] = plot.layout.yaxis.range;
            Plotly.relayout(plot, arguments[0] ? {{ 'yaxis.range[0]': low + 0.41 * (high - low),
                'yaxis.range[1]': low + 0.45 * (high - low) }} : {{ 'yaxis.range': arguments[1] }})"""
        before = desk(f"return document.querySelector('[data-figure=\"{name}\"] .plot').layout.yaxis.range")
        desk(zoom, True, None)
        desk.until(lambda: len(set(desk(labels))) > 1)
        desk(zoom, False, before)
        desk.until(lambda: desk(labels) == whole)
        assert desk.errors() == []

    def test_the_optimizer_filter_hides_lines_rows_and_sentences(self, desk: Page) -> None:
        desk.draw("learning-curves")
        desk.draw("final-scores")
        before = desk.lines("learning-curves"), desk.lines("final-scores"), desk.rows("comparison-final-cells")
        assert "sgd" in before[0]
        desk.click('fieldset[data-filter="optimizer"] .chip[data-value="sgd"]')
        assert desk.lines("learning-curves") == [name for name in before[0] if name != "sgd"]
        assert desk.lines("final-scores") == [name for name in before[1] if name != "sgd"]
        assert desk.rows("comparison-final-cells") == [row for row in before[2] if row["optimizer"] != "sgd"]
        ticks = desk(
            """return [...document.querySelectorAll('[data-figure="final-scores"] .plot')[0]
            .querySelectorAll('.ytick text')].map((tick) => tick.textContent)"""
        )
        assert ticks == ["asgc", "adam"]
        visible = "return [...document.querySelectorAll('.claims li:not([hidden])')].map((one) => one.textContent)"
        assert not any("sgd reaches" in sentence for sentence in desk(visible))
        assert desk("return document.getElementById('filter-state').textContent") == "2 of 3 optimizers"
        assert "of" in desk("return document.querySelector('#comparison-final-cells .shown').textContent")
        desk.click('fieldset[data-filter="optimizer"] .reset')
        assert (
            desk.lines("learning-curves"),
            desk.lines("final-scores"),
            desk.rows("comparison-final-cells"),
        ) == before
        assert desk.errors() == []

    def test_the_task_filter_hides_panels_and_rows(self, desk: Page) -> None:
        panels = """return [...document.querySelectorAll('[data-figure="learning-curves"] .panel:not([hidden]) h4')]
            .map((title) => title.textContent)"""
        assert desk(panels) == ["CartPole · plain", "CartPole · mse", "Acrobot · plain", "Acrobot · mse"]
        desk.click('fieldset[data-filter="task"] .chip[data-value="CartPole"]')
        desk.click('fieldset[data-filter="setting"] .chip[data-value="mse"]')
        assert desk(panels) == ["Acrobot · plain"]
        assert {(row["task"], row["setting"]) for row in desk.rows("comparison-final-cells")} == {("Acrobot", "plain")}
        # The gradients' menu goes to a figure that is left, and what is over all tasks says that it has not changed.
        shown = "return document.querySelector('#family-gradients [data-figure]:not([hidden])').dataset.figure"
        assert desk(shown) == "gradients-Acrobot-plain"
        assert desk("return document.querySelector('[data-figure=aggregates] .fixed').hidden") is False
        desk.draw("learning-curves")
        assert sorted(desk.lines("learning-curves")) == ["adam", "asgc", "sgd"]
        desk.click('fieldset[data-filter="task"] .chip[data-value="Acrobot"]')
        assert desk("return document.querySelector('[data-figure=learning-curves] .filtered').hidden") is False
        assert desk.errors() == []

    def test_tables_sort_by_numbers_and_words(self, desk: Page) -> None:
        def column(index: int) -> list[str]:
            cells = "return [...document.querySelectorAll('#comparison-final-cells tbody tr')].map((row) => "
            return list(desk(f"{cells}row.cells[{index}].dataset.value || row.cells[{index}].textContent)"))

        header = "#comparison-final-cells th:nth-child({}) button"
        desk.click(header.format(5))
        numbers = [float(text) for text in column(4)]
        assert numbers == sorted(numbers)
        desk.click(header.format(5))
        assert [float(text) for text in column(4)] == numbers[::-1]
        assert desk("return document.querySelector('#comparison-final-cells th:nth-child(5)').ariaSort") == "descending"
        desk.click(header.format(3))
        assert column(2) == sorted(column(2))

    def test_every_number_says_where_it_is_from(self, desk: Page) -> None:
        row = '#comparison-final-cells tr[data-task="Acrobot"][data-setting="mse"][data-optimizer="adam"]'
        desk.click(f"{row} .why")
        said = desk("return document.querySelector('#comparison-final-cells tr.runs').textContent")
        for words in (
            "3 runs",
            "seeds 101\u2013103",
            "comparison/Acrobot/mse/adam/default/s101",
            "commit 0123456789ab",
        ):
            assert words in said
        for words in ("protocol=control", "loss=mse", "asgc-rl train --game Acrobot"):
            assert words in said
        desk.click(f"{row} .why")
        assert desk("return document.querySelectorAll('tr.runs').length") == 0
        everywhere = """return [...document.querySelectorAll('details.sheet tbody tr, .claims li')]
            .every((owner) => owner.querySelector('.why'))"""
        assert desk(everywhere) is True

    def test_the_data_of_a_figure_are_those_of_the_file(self, desk: Page, contents: page.Contents) -> None:
        for figure in names(contents):
            if figure.name not in ("learning-curves", "time-to-target", "gradients-CartPole-plain"):
                continue
            header, rows = figure.table()
            text = desk("return Charts.csv(report.figures.get(arguments[0]))", figure.name)
            found = list(csv.reader(io.StringIO(text)))
            assert found[0] == header
            assert len(found) == len(rows) + 1
            for one, other in zip(found[1:], rows, strict=True):
                assert [_number(cell) for cell in one] == [
                    pytest.approx(cell, rel=1e-3) if isinstance(cell, float | int) else cell for cell in other
                ]

    def test_dark(self, browser: Page, report: Path) -> None:
        colour = """return document.querySelector('[data-figure="learning-curves"] .plot').data
            .filter((trace) => trace.meta === 'series' && trace.name === 'sgd')[0].line.color"""
        background = "return getComputedStyle(document.body).backgroundColor"
        browser.open(report, DESKTOP)
        browser.draw("learning-curves")
        light = browser(background), browser(colour)
        browser.open(report, DESKTOP, dark=True)
        browser.draw("learning-curves")
        dark = browser(background), browser(colour)
        assert light == ("rgb(255, 255, 255)", "#000000")
        assert dark[0] != light[0]
        assert dark[1] == "#e8e8e8"  # black lines would not be seen
        browser.click("#theme")  # auto -> light
        assert (browser(background), browser(colour)) == light
        browser("localStorage.clear()")
        assert browser.errors() == []

    def test_on_paper(self, desk: Page) -> None:
        desk("window.dispatchEvent(new Event('beforeprint'))")
        undrawn = """return report.panels.filter((entry) => !entry.element.closest('[hidden]')
            && !entry.plot.querySelector('svg.main-svg') && !entry.plot.querySelector('.empty')).length"""
        assert desk(undrawn) == 0
        assert desk("return document.documentElement.dataset.theme") == "light"
        desk("window.dispatchEvent(new Event('afterprint'))")
        assert desk("return document.documentElement.dataset.theme") is None


class TestPhone:
    def test_nothing_is_wider_than_the_screen(self, browser: Page, report: Path) -> None:
        browser.open(report, PHONE)
        for figure in ("learning-curves", "final-scores", "gradients-CartPole-plain"):
            browser.draw(figure)
        browser("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert browser("return document.documentElement.scrollWidth") <= PHONE[0]
        wide = """return [...document.querySelectorAll('main *, header *, nav *')].filter((one) => {
            const box = one.getBoundingClientRect();
            return box.width && box.right > innerWidth + 1 && !one.closest('.scroll') && !one.closest('svg')
                && !one.closest('.contents');
        }).map((one) => one.outerHTML.slice(0, 100))"""
        assert browser(wide) == []
        sizes = """return [...document.querySelectorAll('p, li, td, dd, figcaption, h4, .chip, .xtick text')]
            .filter((one) => one.getBoundingClientRect().width)
            .map((one) => parseFloat(getComputedStyle(one).fontSize))"""
        assert min(browser(sizes)) >= 11
        assert browser.errors() == []

    def test_no_verdict_is_to_be_scrolled_to_sideways(self, browser: Page, report: Path) -> None:
        browser.open(report, (400, 800))
        browser("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        outside = """return [...document.querySelectorAll('.verdict')].filter((one) => {
            const box = one.getBoundingClientRect();
            return !box.width || box.left < 0 || box.right > innerWidth;
        }).length"""
        assert browser("return document.querySelectorAll('td.verdict').length") > 40
        assert browser(outside) == 0
        sideways = """return [...document.querySelectorAll('.sheet .scroll')]
            .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.getAttribute('aria-label'))"""
        assert browser(sideways) == []
        # Each number has its name before it.
        named = "return getComputedStyle(document.querySelector('td.number:not(.verdict)'), '::before').content"
        assert browser(named) not in ("none", '""')

    def test_filters_are_folded_away_and_open(self, browser: Page, report: Path) -> None:
        browser.open(report, PHONE)
        assert browser("return document.getElementById('filter-box').open") is False
        assert browser("return document.querySelector('nav.filters').offsetHeight") < 60
        browser.click("#filter-box summary")
        browser.click('fieldset[data-filter="task"] .chip[data-value="CartPole"]')
        assert {row["task"] for row in browser.rows("comparison-final-cells")} == {"Acrobot"}


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def test_data_are_valid_json(report: Path) -> None:
    text = report.read_text()
    start = text.index('id="data">') + len('id="data">')
    json.loads(text[start : text.index("</script>", start)], parse_constant=pytest.fail)


def test_the_page_of_a_meta_learning_draws_its_figures_without_an_error(browser: Page, tmp_path: Path) -> None:
    values: dict[str, Any] = {"rule": "sgd", "learn": ["lr", "clip_factor"], "kinds": ["vectors"]}
    values["learner"] = {"name": "unrolled", "steps": 3, "truncation": 2, "runs": 1}
    values["tasks"] = {"bowl": {"class": "tests.evaluation.meta.toy_tasks:Bowl"}}
    (tmp_path / "toy.yaml").write_text(json.dumps(values))
    assert meta_main(["learn", str(tmp_path / "toy.yaml"), "--dir", str(tmp_path / "learned")]) == 0
    report = tmp_path / "learned.html"
    report.write_text(page.of_learning(LearnedData(tmp_path / "learned")))
    browser.open(report, DESKTOP)
    for name in ("learned-options", "learning-returns"):
        browser.draw(name)
    assert browser.lines("learned-options") == ["all layers", "vectors", "other layers"]
    assert not browser.errors()
    assert browser("return document.querySelectorAll('#learned tbody tr').length") == 1
    assert browser("return document.querySelectorAll('button.why').length") == 0
