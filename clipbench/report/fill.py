"""templates/ filled in: the one place where anything is called markup, which goes into a page unescaped.

Two things are: what a template gave, since all that was put into it has been escaped, and the page's own
styles and script, in which nothing of a user's stands. Everything else is text.
"""

from __future__ import annotations

import colorsys
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.colors import to_hex, to_rgb

from clipbench.escape import visible
from clipbench.plot.looks import Look, in_print
from clipbench.report import cells


def fill(template: str, **values: Any) -> Markup:
    """One of templates/ with `values` in it, escaped but for what `fill` gave before."""
    return Markup(_environment().get_template(template).render(values))


def own(name: str) -> Markup:
    """page.css or page.js, for an element of its kind: the browser reads no escapes there."""
    return Markup(files("clipbench.report").joinpath(name).read_text(encoding="utf-8"))


def anchor(text: str) -> str:
    """A title as part of an `id`."""
    return re.sub(r"\W+", "-", text)


def night(colour: str) -> str:
    """The same hue on a dark ground: as light as it was dark, but never dimmer than text may be."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return str(to_hex(colorsys.hls_to_rgb(hue, max(0.62, 1 - lightness), saturation)))


def strokes(look: Look) -> str:
    """A dash as SVG has it, at twice the width; "" for a solid line."""
    if isinstance(look.dash, str):
        return ""
    return " ".join(f"{2 * part:g}" for part in look.dash[1])


def _shown(value: Any) -> Any:
    """What is filled in, of a text what a reader would not see made visible: half a character would not even
    be written.
    """
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return visible(value) if is_text else value


@cache
def _environment() -> Environment:
    """Templates by name; what is filled in is escaped, and what a template asks for must be given."""
    environment = Environment(
        loader=PackageLoader("clipbench.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    environment.filters |= {"anchor": anchor, "strokes": strokes, "night": night, "method": in_print}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {"WIDTH": cells.WIDTH, "HEIGHT": cells.HEIGHT}
    return environment
