"""Figure → SVG for a page: no white ground, the page's font, a hundredth of a point is near enough."""

from __future__ import annotations

import io
import re
from urllib.parse import quote

from matplotlib.figure import Figure

from clipbench.plot import style

FONT = "system-ui,-apple-system,Segoe UI,Roboto,Helvetica Neue,Arial,sans-serif"


def data_uri(figure: Figure) -> str:
    """For the `src` of an image, where a template finds nothing to escape. Each character alone is, which is
    a quarter shorter than base64.
    """
    return "data:image/svg+xml," + quote(text(figure), safe=" =:/,;()!*-._~@+?$[]|^`{}")


def text(figure: Figure) -> str:
    """The element `svg` alone: no comments, no metadata, no ids of groups, coordinates to a hundredth of a
    point.
    """
    file = io.StringIO()
    style.take_literally(figure)
    figure.savefig(
        file,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<[^>]*>", _rounded, svg)  # not the numbers that one reads
    svg = re.sub(r' d="([^"]*)"', lambda found: f' d="{_short(found[1])}"', svg)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", FONT, svg)
    return re.sub(r">\s+<", "><", svg)


def _rounded(tag: re.Match[str]) -> str:
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0])


def _short(path: str) -> str:
    path = re.sub(r"\s*([A-Za-z])\s*", r"\1", path)
    return path.replace("\n", " ").replace(" ", ",").strip(",")
