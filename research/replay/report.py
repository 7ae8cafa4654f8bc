"""The report of an experiment by replay, as a folder."""

from pathlib import Path
from typing import Any

from lookahead.bench.report.markdown import write_folder
from research.plotting.pictures import replay_pictures_of
from research.replay.tables import experiment_tables


def write_replay_report(folder: Path, report: dict[str, Any]) -> None:
    """Write the report of `python -m research.replay --experiment` into an existing folder."""
    about = {name: report[name] for name in ("data", "data_sha256", "traces", "seed")}
    write_folder(
        folder,
        report,
        title=f"{report['data']}, replayed: {report['experiment']}",
        remarks=[report["question"]],
        tables=experiment_tables(report),
        pictures=replay_pictures_of(report),
        about={**about, **report["environment"]},
    )
