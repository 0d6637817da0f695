"""The report's text: what it says, what it stands on, what it leaves out; `test_report_browser` opens it."""

from __future__ import annotations

import html.parser
import json
import math
import shutil
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("duckdb")
pytest.importorskip("plotly")
pytest.importorskip("jinja2")

from evaluation.analysis.comparisons.compare import compare
from evaluation.analysis.data import dataset
from evaluation.analysis.data.run_key import Cell, Method, RunKey
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.bootstrap import Estimate
from evaluation.main import main
from evaluation.plots import style
from evaluation.plots.axes import axis_limits, ticks
from evaluation.plots.figure import Axis, Figure, Panel, series
from evaluation.plots.study_data import StudyData
from evaluation.report import origins, page, payload, sections, setup
from tests.evaluation.synthetic_study import write_study


class Text(html.parser.HTMLParser):
    """The page as a reader sees it, its scripts, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self.fetched: list[str] = []
        self.tags: dict[str, int] = {}
        self._inside = ""
        self._id = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag in ("script", "style"):
            self._inside, self._id = tag, values.get("id") or ""
        self.fetched += [
            value
            for name, value in attrs
            if name in ("src", "href") and value and value[0] != "#" and value != "data:,"
        ]

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)
        elif self._id:
            self.scripts[self._id] = self.scripts.get(self._id, "") + data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def read(text: str) -> Text:
    return Text(text)


class TestPage:
    def test_needs_no_network(self, read: Text, text: str) -> None:
        assert read.fetched == []
        assert "url(" not in text[: text.index("</style>")]
        assert text.count("plotly.js v") == 1  # once

    def test_every_sentence_is_there_losses_included(self, read: Text, study: StudyData) -> None:
        found = [compare(study.data, "comparison", metric=metric) for metric in sections.METRICS]
        found += [compare(study.data, part) for part in ("rates", "robust", "ablations")]
        sentences = [sentence for comparison in found for sentence in comparison.sentences]
        assert any(sentence.endswith(": worse.") for sentence in sentences)
        assert any(sentence.endswith(": no difference shown.") for sentence in sentences)
        for sentence in sentences:
            assert sentence in read.text

    def test_every_figure_has_its_caption(self, read: Text, contents: page.Contents) -> None:
        figures = [figure for family in contents.families for figure in family]
        assert len(figures) > 20
        for figure in figures:
            assert " ".join(figure.caption.split()) in read.text
        assert [one["name"] for one in json.loads(read.scripts["data"])["figures"]] == [one.name for one in figures]

    def test_set_up_and_provenance(self, read: Text, study: StudyData) -> None:
        for words in (
            study.data.definition["question"],
            "Tuning seeds and test seeds are apart",
            "4 trials for every optimizer, task and setting",
            "tuning optimizer.lr 0.0001 to 0.3 uniform in the logarithm all",
            "target_interval 100 to 10000 uniform in the logarithm, whole numbers",
            "ablations clip-only optimizer.note=clip-only",
            "optimizer.lr times 10, 30",
            "0 = 21.7, 1 = 500",
            "protocol=control",
            "every planned run has finished and is whole",
        ):
            assert words in read.text, words

    def test_what_was_left_out_is_said(self, small_study: Path, tmp_path: Path) -> None:
        folder = tmp_path / "lost"
        shutil.copytree(small_study, folder)
        (folder / "comparison/CartPole/plain/adam/default/s102/summary.json").unlink()
        (folder / "comparison/CartPole/plain/sgd/default/s101/summary.json").write_text("{")
        read = Text(page.build(StudyData(dataset.load(folder), repetitions=100), folder))
        assert "2 folders or files were left out" in read.text
        assert " comparison/CartPole/plain/adam/default/s102 unfinished" in read.text
        assert str(folder) not in read.text  # what a reader elsewhere could not find
        assert "corrupt: cannot read summary.json" in read.text
        assert "fewer than 3 runs of" in read.text  # the comparison's own note

    def test_figures_and_tables_that_are_not_possible_are_said(self, tmp_path: Path) -> None:
        folder = write_study(tmp_path / "one", tasks=("CartPole",), settings=("plain",), optimizers=("adam",), seeds=2)
        runs = folder / "comparison/CartPole/plain/adam/default"
        read = Text(page.build(StudyData(dataset.load(runs), repetitions=100)))
        assert "No comparison of optimizers can be made" in read.text
        assert "figure robustness : the study has no finished runs of a part of kind robustness" in read.text
        assert "figure improvement : there is one optimizer only" in read.text

    def test_names_cannot_break_out_of_the_page(self, small_study: Path, tmp_path: Path) -> None:
        folder = tmp_path / "evil"
        shutil.copytree(small_study, folder)
        nasty = "</script><img src=x onerror=alert(1)>"
        definition = (folder / "study.yaml").read_text().replace("Does ASGC", f"{nasty} Does ASGC")
        (folder / "study.yaml").write_text(definition)
        index = (folder / "runs.jsonl").read_text().replace('"optimizer": "sgd"', f'"optimizer": "{nasty}"')
        (folder / "runs.jsonl").write_text(index)
        read = Text(page.build(StudyData(dataset.load(folder), repetitions=100)))
        assert "img" not in read.tags
        assert nasty in read.text
        assert nasty in json.loads(read.scripts["data"])["looks"]


class TestFirstScreen:
    """What a reader sees first: verdicts and their picture. `test_report_browser` measures it in pixels."""

    def test_verdicts_then_a_figure_then_tables(self, text: str) -> None:
        body = text[text.index("<body>") :]
        places = [body.index(tag) for tag in ('<ul class="verdicts">', "<figure", "<table", '<ul class="claims">')]
        assert places == sorted(places)
        assert 'class="verdict' in body[: places[1]]

    def test_every_part_with_a_comparison_has_verdicts_and_a_picture(
        self, contents: page.Contents, study: StudyData
    ) -> None:
        assert [finding.part for finding, _ in contents.findings] == ["comparison", "rates", "robust", "ablations"]
        for finding, picture in contents.findings:
            [part] = [
                part for part in study.parts("compare", "grid", "robustness", "ablation") if part.name == finding.part
            ]
            pairs = study.comparison(part, "final").pairs
            first = [pair for pair in pairs if pair.cell == pairs.records[0].cell]
            given = {name: verdict for verdict, names in finding.verdicts for name in names}
            assert given == {str(pair.method): pair.verdict for pair in first}
            assert len(finding.glance.lines) == len(first)
            [figure] = picture
            drawn = {one.label: (one.x[0], one.low[0], one.high[0]) for one in figure.panels[0].series}  # type: ignore[index]
            assert drawn == {str(pair.method): tuple(pair.improvement) for pair in first}

    def test_what_the_numbers_are_stands_beside_them(self, read: Text, text: str, contents: page.Contents) -> None:
        assert ' title="' not in text[text.index("<main") : text.index("</main>")]  # a phone and paper have no pointer
        for finding, _ in contents.findings:
            assert all(
                cell.interval.startswith("P(better) ") for line in finding.glance.lines for cell in line.cells[1:]
            )
            assert f"how often a run of the method is better than one of {finding.baseline}" in read.text
        for sheets in contents.sheets.values():
            for label, explanation in (column for sheet in sheets for column in sheet.columns):
                assert f"{label} {explanation}".strip() in read.text
        assert 'data-label="P(better)"' in text  # where rows are blocks

    def test_verdicts_stand_before_the_numbers(self, contents: page.Contents) -> None:
        of_tests = [sheet for sheets in contents.sheets.values() for sheet in sheets if sheet.name.endswith("pairs")]
        assert len(of_tests) > 5
        for sheet in of_tests:
            labels = [label for label, _ in sheet.columns]
            assert labels.index("verdict") == labels.index("method") + 1

    def test_a_long_question_can_be_unfolded(self, text: str, study: StudyData) -> None:
        assert f'<details class="question"><summary>{study.data.definition["question"]}</summary>' in text


class TestCommand:
    def test_writes_the_page_and_the_same_data_give_the_same(
        self, demo_study: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "new" / "page.html"
        assert main(["report", str(demo_study), "--out", str(out), "--repetitions", "100"]) == 0
        assert capsys.readouterr().out.startswith(f"{out} (")
        assert out.read_text() == text
        assert text.startswith("<!doctype html>")
        assert out.stat().st_size < 7e6

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "say which study"),
            (["nowhere"], "no such folder"),
            (["STUDY", "--out", "/"], "is a folder: name a file"),
        ],
    )
    def test_user_errors(
        self, demo_study: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert main(["report", *(str(demo_study) if word == "STUDY" else word for word in arguments)]) == 2
        assert said in capsys.readouterr().err

    def test_no_finished_run_is_one_line(
        self, demo_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(demo_study / "comparison/CartPole/plain/adam/default/s101", tmp_path / "runs/s101")
        (tmp_path / "runs/s101/summary.json").unlink()
        assert main(["report", str(tmp_path / "runs")]) == 2
        assert capsys.readouterr().err == "error: runs has no finished runs to report\n"


class TestPayload:
    def test_numbers(self) -> None:
        values = [1.0, 0.123456789, -2.5e-7, math.nan, math.inf, -math.inf, 123456.789]
        assert payload.numbers(np.array(values)) == [1, 0.1235, -2.5e-7, None, "inf", "-inf", 123500]

    def test_every_point_of_a_long_curve_is_sent(self) -> None:
        x = np.arange(10_000)
        one = payload.figure(
            Figure("f", "f", "", (Panel("", "", Axis(), Axis(), (series("a", x, x, low=x, high=x),)),))
        )
        [found] = one["panels"][0]["series"]
        assert found["x"] == x.tolist()
        assert len(found["y"]) == len(found["low"]) == len(found["high"]) == 10_000

    def test_ticks_of_a_logarithmic_axis_are_those_of_the_files(self) -> None:
        line = series("a", [0.31, 0.48], [1e-7, 1e3])
        figure = Figure("f", "f", "", (Panel("", "", Axis(log=True), Axis(log=True), (line,)),))
        [panel] = payload.figure(figure)["panels"]
        [limits] = axis_limits(figure)
        for which, ends in zip("xy", limits, strict=True):
            places, texts = zip(*ticks(Axis(log=True), ends), strict=True)
            assert len(texts) >= 3
            assert panel[which]["ticks"] == [payload.numbers(np.array(places), payload.PLACE_DIGITS), texts]

    def test_what_series_share_is_sent_once(self) -> None:
        lines = tuple(series(name, [1, 2], [3, 4], runs=RunKey(task="T", optimizer=name)) for name in "ab")
        [panel] = payload.figure(Figure("f", "f", "", (Panel("", "", Axis(), Axis(), lines),)))["panels"]
        assert (panel["runs"], panel["xs"]) == ({"task": "T"}, [1, 2])
        assert [one["runs"] for one in panel["series"]] == [{"optimizer": "a"}, {"optimizer": "b"}]
        assert all("x" not in one for one in panel["series"])

    def test_estimates_are_never_thinned(self) -> None:
        x = np.arange(500)
        panel = Panel("", "", Axis(), Axis(), (series("a", x, x),), categories=tuple(map(str, x)))
        [found] = payload.figure(Figure("f", "f", "", (panel,)))["panels"][0]["series"]
        assert len(found["x"]) == 500

    def test_every_marker_has_a_symbol(self) -> None:
        looks = payload.looks(style.KNOWN)
        assert all(look["outline"] for look in looks.values())
        assert {look.marker for look in style.KNOWN.values()} <= set(payload.SYMBOLS)

    def test_symbols_are_plotlys(self) -> None:
        from plotly.graph_objects import Scatter

        for symbol, _ in payload.SYMBOLS.values():
            Scatter(x=[1], y=[1], marker={"symbol": symbol})  # refuses unknown ones


class TestTables:
    def test_cells_are_the_comparisons(self, study: StudyData) -> None:
        comparison = study.comparison(study.parts("compare")[0], "final")
        sheets = {sheet.name: sheet for sheet in sections.sheets_of(comparison, study.place)}
        sheet = sheets["comparison-final-cells"]
        assert len(sheet.lines) == len(comparison.cells)
        for line in sheet.lines:
            task, setting, method = (cell.text for cell in line.cells[:3])
            place = (Cell(task, setting), Method(method))
            [row] = [row for row in comparison.cells if (row.cell, row.method) == place]
            assert (line.cells[4].value, line.cells[5].value) == (row.diverged, row.iqm.value)
            assert line.runs == RunKey("comparison", task, setting, method)
        assert [line.cells[2].text for line in sheet.lines[:3]] == ["asgc", "adam", "sgd"]

    def test_what_the_best_of_k_trials_reach(self, contents: page.Contents) -> None:
        [sheet] = contents.sheets["tuning"]
        assert [label for label, _ in sheet.columns[4:]] == ["best of 1", "best of 2", "best of 3", "best of 4"]
        assert len(sheet.lines) == 3 * 3  # optimizers; two tasks, and both together
        assert [sheet.lines[-1].cells[place].text for place in (0, 1, 3)] == ["all", "all settings", "3"]

    @pytest.mark.parametrize(
        ("cell", "method", "labels"),
        [
            (Cell("T", "plain"), Method("asgc"), {"task": "T", "setting": "plain"}),
            (Cell(), Method("asgc"), {}),
            (Cell("T", "plain", "lrx10"), Method("asgc"), {"task": "T", "setting": "plain", "variant": "lrx10"}),
            (Cell("T", "plain"), Method("asgc", "unit"), {"task": "T", "setting": "plain", "variant": "unit"}),
        ],
    )
    def test_the_runs_behind_a_row(self, cell: Cell, method: Method, labels: dict[str, str]) -> None:
        runs = RunKey.of("comparison", cell, method)
        assert runs.labels() == {"part": "comparison", "optimizer": "asgc", **labels}

    def test_the_runs_behind_variants_and_points_are_theirs(self, study: StudyData) -> None:
        for kind, count in (("ablation", 3), ("grid", 3)):
            comparison = study.comparison(study.parts(kind)[0], "final")
            [sheet] = [one for one in sections.sheets_of(comparison, study.place) if one.name.endswith("-cells")]
            for line in sheet.lines:
                labels = line.runs.labels()
                assert sum(labels.items() <= row.items() for row in study.runs) == count
                assert labels["variant"] in f"{line.cells[1].text} {line.cells[2].text}"

    def test_what_an_analysis_adds_is_shown(self, study: StudyData) -> None:
        """Fields that no column names get one of their own; those that are empty everywhere do not."""
        row = study.comparison(study.parts("compare")[0], "final").cells.records[0]
        bases = (type(row),)
        more = [("luck", int), ("spread_of_trials", Estimate), ("remark", str, field(default=""))]
        added = make_dataclass("Added", more, bases=bases, kw_only=True, frozen=True)
        record = added(**vars(row), luck=2, spread_of_trials=Estimate(0.5))
        sheet = sections.sheet("cells", "comparison", Table("t", [record]), (sections.TASK, ("IQM", "", "iqm")))
        shown = dict(zip((label for label, _ in sheet.columns), sheet.lines[0].cells, strict=True))
        assert shown["luck"].text == "2"
        assert (shown["spread of trials"].text, shown["spread of trials"].interval) == ("0.5", "[too few runs]")
        assert "remark" not in shown
        plain = sections.sheet("any", "comparison", Table("t", [record]))
        assert [label for label, _ in plain.columns][:3] == ["task", "setting", "method"]

    def test_numbers_in_words(self) -> None:
        assert sections.entry(Estimate(0.5)).interval == "[too few runs]"
        assert sections.entry(Estimate(0.5, 0.5, 0.5)).interval == "[no spread seen]"
        assert sections.entry(0.5).interval == ""
        assert sections.entry(Estimate(math.nan)) == sections.entry(math.nan) == sections.Entry("")
        assert sections.entry(Estimate(30_000, 20_000, math.inf)).interval == "[20000, ∞]"
        assert sections.entry(math.nan).text == ""


class TestProvenance:
    def test_groups_hold_every_run_once(self, study: StudyData) -> None:
        found = origins.groups(study.runs)
        assert sum(len(group["seeds"]) for group in found["groups"]) == len(study.runs)
        [group] = [
            group
            for group in found["groups"]
            if (group["part"], group["task"], group["setting"], group["optimizer"])
            == ("comparison", "Acrobot", "mse", "adam")
        ]
        assert group["seeds"] == [101, 102, 103]
        assert group["options"] == "loss=mse"
        assert "protocol=control" in found["protocols"][group["protocol"]]
        assert found["origins"][group["origin"]]["commit"].startswith("0123456")

    def test_origins_that_differ_are_kept_apart(self) -> None:
        row: dict[str, Any] = {"part": "p", "kind": "compare", "task": "t", "setting": "s", "optimizer": "o"}
        row |= {"variant": "default", "purpose": "test", "path": "x", "protocol": "a=1", "options": "{}", "command": ""}
        rows = [row | {"seed": 2, "commit": "b"}, row | {"seed": 1, "commit": "a"}]
        found = origins.groups(rows)
        [group] = found["groups"]
        assert group["seeds"] == [1, 2]
        assert [found["origins"][index]["commit"] for index in group["origin"]] == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "typed"),
        [
            (
                "/usr/bin/python3 /opt/bin/asgc-rl train --game Pong --run-dir /tmp/x --seed=1",
                "asgc-rl train --game Pong --seed=1",
            ),
            ("asgc-rl train --run-dir=/tmp/x --lr 1", "asgc-rl train --lr 1"),
            ("python -m rl.cli train", "python -m rl.cli train"),
        ],
    )
    def test_commands_as_they_are_typed(self, text: str, typed: str) -> None:
        assert origins.command(text) == typed


class TestSetup:
    def test_ranges(self) -> None:
        assert setup.ranges([3, 1, 2, 7, 9, 10]) == "1\u20133, 7, 9\u201310"
        assert setup.ranges([]) == ""

    @pytest.mark.parametrize(
        ("seconds", "words"), [(45, "45 s"), (600, "10 min"), (9_000, "2.5 h"), (260_000, "3.0 days")]
    )
    def test_duration(self, seconds: float, words: str) -> None:
        assert setup.duration(seconds) == words

    def test_shared_seeds_are_said(self, study: StudyData) -> None:
        shared = StudyData(study.data)
        assert "were used for tuning" not in self.note(shared)
        shared.runs = [row | {"seed": row["seed"] + 100} if row["purpose"] == "tune" else row for row in study.runs]  # type: ignore[misc]
        assert "Seeds 101\u2013103 were used for tuning and for testing" in self.note(shared)

    @staticmethod
    def note(study: StudyData) -> str:
        [parts] = [sheet for sheet in setup.sheets(study) if sheet.name == "setup-parts"]
        return parts.note
