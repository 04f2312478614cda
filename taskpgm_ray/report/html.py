"""`render`: the report as one self-contained HTML page that opens from disk."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from taskpgm_ray.report import answers, before_after, evidence, insight, sections
from taskpgm_ray.report.clustering import cluster
from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.page import Page, packed

STYLE, SCRIPT = "page.css", "page.js"
"""Files beside this one that are written into the page."""


def render(data: ReportData) -> str:
    """The whole report as one HTML page: plotly.js, figures, tables and style inside, nothing from the network.

    Args:
        data: Everything that is shown; what it lacks is left out with a sentence that says so.

    Returns:
        The page, 2 to 3 MB (plotly.js is compressed inside it; the browser unpacks it when it draws).
    """
    from plotly.offline import get_plotlyjs

    style, script = (files("taskpgm_ray.report").joinpath(name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    clustering = cluster(data.divergence)
    page = Page()
    head = sections.headline(data)
    parts = [
        sections.what_to_do(data),
        sections.mixture(data, page),
        insight.section(data, page),
        sections.path(data, page),
        sections.search(data, page),
        sections.comparison(data, page),
        before_after.section(data),
        answers.section(data),
        sections.budgets(data),
        evidence.affinity(data, clustering, page),
        evidence.tasks(data),
        evidence.coverage(data, clustering, page),
        evidence.cost(data),
        evidence.record(data),
    ]
    links = "".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in parts)
    body = "".join(
        f'<section id="{part.anchor}"><h2>{escape(part.title)}</h2>{part.content}</section>' for part in parts
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(data.study)} · TaskPGM</title><style>\n{style}</style></head>\n"
        f'<body><main><header>{head}<nav aria-label="Sections">{links}</nav></header>\n{body}</main>\n'
        f"{packed('plotly', get_plotlyjs())}{packed('figures', page.figures_json())}"
        f"<script>\n{script}</script></body></html>\n"
    )
