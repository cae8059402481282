"""Pages on which to see how near pictures come to the truth: curves by method, and moments to compare by eye.

A page is one HTML file that loads nothing: the pictures are in it, and so is bokeh, which draws the curves (1.3 MB).
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from fpsgan.errors import SetupError

try:
    from bokeh.embed import components
    from bokeh.models import HoverTool
    from bokeh.models.annotations import Legend
    from bokeh.palettes import Colorblind8
    from bokeh.plotting import figure
    from bokeh.resources import Resources
except ImportError as error:
    raise SetupError("a page with curves needs bokeh: pip install 'fpsgan[report]'") from error

__all__ = ["Moment", "curves", "moment_text", "page_text", "pictures", "table_text"]

Image = NDArray[np.uint8]  # [H,W,3] RGB

WIDEST = 960  # px, of the pictures on the page
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: .2em 1em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
.moment { margin: 2em 0 } .stack { position: relative } .stack img { width: 100%; display: block }
.stack img + img { position: absolute; top: 0; left: 0 } .moment input { width: 100% } select { font: inherit }
"""

# Two pictures of a moment on top of each other, the upper one cut off at the slider
SCRIPT = """
for (const moment of document.querySelectorAll(".moment")) {
  const [left, right] = moment.querySelectorAll("select"), slider = moment.querySelector("input");
  const show = () => {
    for (const image of moment.querySelectorAll("img")) {
      const upper = image.alt === left.value;
      image.style.visibility = upper || image.alt === right.value ? "visible" : "hidden";
      image.style.zIndex = upper ? 1 : 0;
      image.style.clipPath = upper ? `inset(0 ${100 - slider.value}% 0 0)` : "none";
    }
  };
  for (const control of [left, right, slider]) control.addEventListener("input", show);
  show();
}
"""


@dataclass
class Moment:
    """A frame to look at: where it is (s, or its number), PSNR in dB and pictures (JPEG) by method."""

    at: float
    psnr: dict[str, float]
    pictures: dict[str, bytes] = field(default_factory=dict, repr=False)


def pictures(found: Mapping[str, Image], truth: Image, ours: str) -> dict[str, bytes]:
    """As JPEG: each method's picture, the truth, and four times the error of ``ours``."""
    error = np.asarray(cv2.convertScaleAbs(cv2.absdiff(found[ours], truth), alpha=4), np.uint8)
    return {name: _jpeg(image) for name, image in {**found, "truth": truth, f"error of {ours} ×4": error}.items()}


def _jpeg(image: Image) -> bytes:
    shrink = WIDEST / max(image.shape[:2])
    if shrink < 1:
        size = (max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def curves(
    psnr: Mapping[str, Sequence[float]],
    at: Sequence[float],
    where: str,
    *,
    marks: Sequence[Moment] = (),
    ours: str = "",
    cuts: Sequence[float] = (),
) -> figure:
    """PSNR by method over ``at`` (``where``: what that is). A click on a name in the legend hides or shows its line.
    ``marks`` are dots on the line of ``ours``, ``cuts`` dashed."""
    plot = figure(
        height=320, sizing_mode="stretch_width", tools="xpan,xwheel_zoom,box_zoom,reset,save", active_drag="box_zoom",
        x_axis_label=where, y_axis_label="PSNR, dB",
    )  # fmt: skip
    plot.add_layout(Legend(orientation="horizontal", click_policy="hide"), "above")
    for (name, values), colour in zip(psnr.items(), (Colorblind8 * len(psnr))[: len(psnr)], strict=True):
        line = plot.line(list(at), list(values), legend_label=name, color=colour, line_width=1.5, name=name)
        plot.add_tools(HoverTool(renderers=[line], tooltips=[(name, "@y{0.00} dB"), (where, "@x{0.00}")]))
    plot.vspan(x=list(cuts), line_color="#bbb", line_dash="dashed")
    plot.scatter([m.at for m in marks], [m.psnr[ours] for m in marks], size=8, color="#c00")
    plot.toolbar.logo = None
    return plot


def moment_text(moment: Moment, title: str, left: str, right: str) -> str:
    """Two of the moment's pictures beside a slider: ``left`` and ``right`` at first, any by choice."""

    def choice(chosen: str) -> str:
        options = "".join(f"<option{' selected' * (m == chosen)}>{html.escape(m)}</option>" for m in moment.pictures)
        return f"<select>{options}</select>"

    images = "".join(
        f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{base64.b64encode(code).decode()}">'
        for name, code in moment.pictures.items()
    )
    scores = ", ".join(f"{html.escape(name)} {value:.1f} dB" for name, value in moment.psnr.items())
    return f"""<div class="moment"><p>{html.escape(title)}: {scores}</p>
<p>left of the slider {choice(left)} right of it {choice(right)}</p>
<div class="stack">{images}</div><input type="range" min="0" max="100" value="50" aria-label="slider"></div>
"""


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for row, tag in zip(rows, ["th", *["td"] * (len(rows) - 1)], strict=True)
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def page_text(title: str, parts: Sequence[str | figure]) -> str:
    """The whole page, of HTML and of what ``curves`` makes."""
    plots = [part for part in parts if not isinstance(part, str)]
    script, divisions = components(plots) if plots else ("", ())
    places = iter(divisions)
    body = "\n".join(part if isinstance(part, str) else next(places) for part in parts)
    library = Resources(mode="inline", components=["bokeh"]).render_js() if plots else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>
{library}</head>
<body>
{body}
{script}
<script>{SCRIPT}</script>
</body></html>
"""
