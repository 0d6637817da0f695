"""One study, one page and what it shows, for all tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.analysis.data import dataset
from evaluation.plots.study_data import StudyData
from evaluation.report import page
from tests.evaluation.synthetic_study import write_study


@pytest.fixture(scope="session")
def study(demo_study: Path) -> StudyData:
    """The tables of `demo_study`."""
    return StudyData(dataset.load(demo_study), repetitions=100)


@pytest.fixture(scope="session")
def contents(study: StudyData) -> page.Contents:
    """What the page of `demo_study` shows."""
    return page.gather(study)


@pytest.fixture(scope="session")
def text(study: StudyData) -> str:
    """The page of `demo_study`."""
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")
    return page.build(study)


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one task and setting, with parts of every kind, which is quick to report; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "small"
    return write_study(folder, tasks=("CartPole",), settings=("plain",), seeds=3, trials=2, draws=2)
