"""Derive summary.json, digests, figures and report.html from the measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from overlay.errors import BackendError
from sims.studies.reports.comparison import differences
from sims.studies.reports.figures import draw_figures
from sims.studies.reports.report import report_html
from sims.studies.results.atomic import write_json, write_text
from sims.studies.results.directory import FORMAT, write_digests
from sims.studies.results.reading import Results
from sims.studies.results.summary import PointSummary, summarise

__all__ = ["Drawn", "draw"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What :func:`draw` made of a results directory.

    Attributes:
        path: of the directory.
        results: what it holds.
        points: a summary of each point of the study.
        remarks: sentences for the user, such as why there are no figures.
    """

    path: Path
    results: Results
    points: list[PointSummary]
    remarks: list[str]

    @property
    def held(self) -> bool | None:
        """Whether every run is complete and every expectation held.

        None if every run is complete and the scenario has no expectation.
        """
        judged = [v.held for p in self.points for v in p.verdicts]
        if not self.results.complete:
            return False
        return all(judged) if judged else None

    def plain(self) -> dict[str, object]:
        """Return the summary as JSON's own types."""
        results = self.results
        return {
            "format": FORMAT,
            "state": results.state,
            "complete": results.complete,
            "held": self.held,
            "planned_runs": results.study.runs,
            "runs": len(results.runs),
            "failures": [failure.plain() for failure in results.failures],
            "notes": results.notes,
            "points": [point.plain() for point in self.points],
            "differences": [each.plain() for each in differences(self.points)],
        }


def draw(path: Path, results: Results) -> Drawn:
    """Summarise the results and write the files that are derived from them.

    Raises:
        BackendError: the directory cannot be written.
    """
    points = [
        summarise(point, [run for run in results.runs if run.point == number])
        for number, point in enumerate(results.study.points)
    ]
    try:
        drawn = Drawn(path, results, points, [])
        write_json(path / "summary.json", drawn.plain())
        write_digests(path, results.study, results.runs)
        figures, remarks = draw_figures(path / "figures", points, results.study)
        drawn = Drawn(path, results, points, remarks)
        write_text(path / "report.html", report_html(drawn.results, drawn.points, figures, remarks))
    except OSError as error:
        raise BackendError(
            f"{path} cannot be written ({error.strerror}); make room or permit it, then redraw "
            f'with "overlay sim plot {path}".'
        ) from error
    return drawn
