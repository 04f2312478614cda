"""What a page is made of: sections, and figures that are collected while the sections are written."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Section:
    """One section of the report."""

    anchor: str
    title: str
    content: str
    """HTML."""


@dataclass
class Page:
    """Collects the figures of a page; the page draws them from one block of JSON."""

    figures: dict[str, go.Figure] = field(default_factory=dict)

    def figure(self, name: str, figure: go.Figure, caption: str) -> str:
        """Register a figure and return its HTML.

        Args:
            name: Unique on the page; letters and hyphens.
            figure: The figure.
            caption: What one sees, in a sentence or two; escaped here.
        """
        # The page brings its own colours, and the default template is 7 kB a figure.
        figure.update_layout(template=None)
        self.figures[f"figure-{name}"] = figure
        height = figure.layout.height
        return (
            f'<figure aria-labelledby="caption-{name}"><div class="plot" id="figure-{name}" style="height:{height}px">'
            f'</div><figcaption id="caption-{name}">{escape(caption)}</figcaption></figure>'
        )

    def tabs(self, name: str, panels: dict[str, str]) -> str:
        """Panels of which one is shown at a time, under a row of buttons; the first is open."""
        ids = [f"panel-{name}-{k}" for k in range(len(panels))]
        buttons = "".join(
            f'<button type="button" role="tab" aria-controls="{i}" aria-selected="{str(i == ids[0]).lower()}"'
            f' tabindex="{0 if i == ids[0] else -1}">{escape(title)}</button>'
            for i, title in zip(ids, panels, strict=True)
        )
        contents = "".join(
            f'<div id="{i}" role="tabpanel"{"" if i == ids[0] else " hidden"}>{content}</div>'
            for i, content in zip(ids, panels.values(), strict=True)
        )
        return f'<div class="tabs" role="tablist">{buttons}</div>{contents}'

    def figures_json(self) -> str:
        """All figures as one JSON object."""
        return "{" + ",".join(f'"{name}":{figure.to_json()}' for name, figure in self.figures.items()) + "}"


def packed(name: str, text: str) -> str:
    """A script element that keeps a long text compressed until the page's own script unpacks it by this name.

    The library that draws is 4.8 MB as it is and 1.9 MB like this, and base64 is safe inside any element.
    """
    # Without the time of day in it, so that the same study gives the same page.
    small = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    return f'<script type="text/plain" id="{name}">{small}</script>\n'


def note(text: str) -> str:
    """A paragraph that says why something is not there."""
    return f'<p class="note">{escape(text)}</p>'


def paragraph(text: str) -> str:
    """A plain paragraph."""
    return f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """A paragraph that a reader must not miss."""
    return f'<p class="warning" role="note">{escape(text)}</p>'
