"""Records become plain columns in one place; the names of the columns are what files and pages are read by."""

from __future__ import annotations

import csv
import io

import pytest

from evaluation.analysis.comparisons.compare import AggregateRow, CellRow, PairRow
from evaluation.analysis.comparisons.matched import MatchedGridRow, MatchedRow
from evaluation.analysis.comparisons.retention import RetentionRow
from evaluation.analysis.comparisons.robustness import RobustnessRow, SensitivityRow
from evaluation.analysis.comparisons.verdicts import Verdict
from evaluation.analysis.data.run_key import Cell, Method
from evaluation.analysis.result_table import Table
from evaluation.analysis.stats.bootstrap import Estimate

ADAM, VALUE = Method("adam"), Method("asgc", "value", name="asgc value")
ONE, TWO = Estimate(1.0, 0.5, 1.5), Estimate(2.0, 1.5, 2.5)
HERE, POINT, EVERYWHERE = Cell("Pong", "plain"), Cell("Pong", "plain", "lr=0.1"), Cell()
TESTED = (0.5, 1.0, Verdict.NOT_SHOWN, "Said.")


@pytest.mark.parametrize(
    ("row", "header", "begins"),
    [
        (
            CellRow(POINT, VALUE, 3, 1, None, ONE, TWO, ONE),
            "task,setting,method,n,diverged,reached,mean,mean_low,mean_high,median,median_low,median_high,iqm,iqm_low,"
            "iqm_high,score,score_low,score_high",
            'Pong,"plain, lr=0.1",asgc value,3,1,,1.0,0.5,1.5,2.0',
        ),
        (
            CellRow(POINT, VALUE, 2, 0, None, Estimate(1.0), TWO, ONE),
            "task,setting,method,n,diverged,reached,mean,mean_low,mean_high,median,median_low,median_high,iqm,iqm_low,"
            "iqm_high,score,score_low,score_high",
            'Pong,"plain, lr=0.1",asgc value,2,0,,1.0,too few runs,too few runs,2.0',
        ),
        (
            AggregateRow(Cell(setting="mse"), ADAM, "iqm", ONE, 2, 3, 1),
            "group,method,statistic,value,low,high,cells,n,diverged",
            "mse,adam,iqm,1.0,0.5,1.5,2,3,1",
        ),
        (
            PairRow(EVERYWHERE, VALUE, ADAM, 2, 3, 3, 1, 0, "primary", ONE, TWO, ONE, TWO, *TESTED),
            "group,task,method,baseline,cells,n,n_baseline,diverged,diverged_baseline,family,center,center_low,"
            "center_high,baseline_center,baseline_low,baseline_high,difference,difference_low,difference_high,"
            "improvement,improvement_low,improvement_high,p,p_holm,verdict,sentence,score,score_low,score_high,"
            "baseline_score,baseline_score_low,baseline_score_high",
            "all settings,,asgc value,adam,2,3,3,1,0,primary,1.0,0.5,1.5,2.0,1.5,2.5",
        ),
        (
            RetentionRow(HERE, VALUE, ADAM, 1, 3, "exploratory", 0.5, 0.25, ONE, TWO, ONE, *TESTED),
            "setting,task,method,baseline,cells,n,family,reference_score,score,change,change_low,change_high,baseline_change,"
            "baseline_low,baseline_high,advantage,advantage_low,advantage_high,p,p_holm,verdict,sentence",
            "plain,Pong,asgc value,adam",
        ),
        (
            MatchedRow(HERE, VALUE, ADAM, "learning rate", 0.5, 0.25, 3, ONE),
            "task,setting,method,baseline,measure,step,baseline_step,n,iqm,iqm_low,iqm_high,matched,n_matched,"
            "matched_step,matched_iqm,matched_low,matched_high,difference,difference_low,difference_high,improvement,"
            "improvement_low,improvement_high,p,p_holm,verdict,sentence",
            "Pong,plain,asgc value,adam,learning rate,0.5,0.25,3,1.0,0.5,1.5,,0,nan,nan,nan,nan",
        ),
        (
            MatchedGridRow("rates", EVERYWHERE, VALUE, ADAM, "early step", 0, 0),
            "part,task,setting,method,baseline,measure,points,collapsed,family,step_low,step_high,near,baseline_near,area,"
            "area_low,area_high,baseline_area,baseline_area_low,baseline_area_high,difference,difference_low,"
            "difference_high,improvement,improvement_low,improvement_high,p,p_holm,verdict,sentence",
            "rates,all,all,asgc value,adam,early step,0,0,primary,nan",
        ),
        (
            RobustnessRow("rates", HERE, ADAM, 2, 9.0, 10.0, ONE, TWO),
            "part,task,setting,optimizer,settings,best,cell_best,near,near_low,near_high,area,area_low,area_high",
            "rates,Pong,plain,adam,2,9.0,10.0,1.0,0.5,1.5,2.0",
        ),
        (
            SensitivityRow("rates", HERE, "adam", 0.1, 0.1, 0.2, 3, ONE),
            "part,task,setting,optimizer,value,value_low,value_high,n,iqm,low,high",
            "rates,Pong,plain,adam,0.1,0.1,0.2,3,1.0,0.5,1.5",
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__dataclass_fields__") else "",
)
def test_columns(row, header, begins):
    table = Table("A table", [row, row])
    lines = table.csv().splitlines()
    assert lines[0] == header
    assert lines[1] == lines[2]
    assert lines[1].startswith(begins)
    [read, _] = csv.DictReader(io.StringIO(table.csv()))
    assert {name: str(value) if value is not None else "" for name, value in table.rows()[0].items()} == read


def test_no_records_no_file_of_headers():
    assert Table("A table", []).csv() == ""
