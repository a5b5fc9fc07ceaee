"""The HTML pages of runs, comparisons and ablations: one file each, one style, no outside references, no scripts."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any


def render_page(title: str, sections: Sequence[str]) -> str:
    """A whole page.

    Args:
        title: Text; escaped here.
        sections: HTML, one after the other.
    """
    title = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f'<title>{title}</title><style>{_CSS}</style></head>\n<body><main><h1>{title}</h1>'
        f'{"".join(sections)}</main></body></html>\n'
    )


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table whose first column names the rows.

    Args:
        head: HTML of the other columns' headings.
        rows: Name (text, escaped here) and cells (HTML) of each row.
    """
    heading = ''.join(f'<th>{cell}</th>' for cell in head)
    body = ''.join(f'<tr><th>{html.escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
                   for name, cells in rows)
    return f'<div class="scroll"><table><tr><th></th>{heading}</tr>{body}</table></div>'


def figures(drawings: Sequence[tuple[str, str]]) -> str:
    """Charts side by side, from caption (text) and SVG; those without SVG are left out."""
    drawn = ''.join(f'<figure><figcaption>{html.escape(caption)}</figcaption>{svg}</figure>'
                    for caption, svg in drawings if svg)
    return f'<div class="charts">{drawn}</div>' if drawn else ''


def details(facts: Mapping[str, Any]) -> str:
    """Anything that JSON holds, folded away by its name; what is empty is left out."""
    blocks = ''
    for key, value in facts.items():
        if value:
            text = html.escape(json.dumps(value, indent=2, ensure_ascii=False))
            blocks += f'<details><summary>{html.escape(key.replace("_", " "))}</summary><pre>{text}</pre></details>'
    return blocks


_CSS = """
:root{color-scheme:light dark;--ink:#1c2330;--dim:#667085;--line:#d8dde6;--page:#f7f8fa;--card:#fff;--curve:#2563eb;
--before:#b45309;--after:#15803d;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--dim:#98a2b3;--line:#2f3746;--page:#11151c;--card:#1a202b;
--curve:#60a5fa;--before:#f59e0b;--after:#4ade80;--bad:#f87171}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{margin:0 0 .5rem;font-size:1.7rem}h2{margin:2.5rem 0 .75rem;font-size:1.25rem}h3{font-size:1rem;font-weight:600}
.hero{margin:0;font-size:2.6rem;font-weight:650;letter-spacing:-.02em}
.hero small{font-size:1rem;font-weight:400;color:var(--dim)}
small{color:var(--dim)}.before{color:var(--before)}.after{color:var(--after)}
.scroll{overflow-x:auto}table{border-collapse:collapse;background:var(--card);border-radius:10px;
overflow:hidden;min-width:60%}
th,td{padding:.45rem .9rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
td{white-space:nowrap}.events td{white-space:normal;text-align:left}.events th{white-space:nowrap}
th:first-child{text-align:left;font-weight:500;color:var(--dim)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:1rem}
figure{margin:0;padding:.75rem;background:var(--card);border:1px solid var(--line);border-radius:10px}
figcaption{font-size:.85rem;color:var(--dim)}
svg{display:block;width:100%;height:auto}svg text{font-size:11px;fill:var(--dim)}
.c0{--series:#2563eb}.c1{--series:#d97706}.c2{--series:#0d9488}.c3{--series:#c026d3}.c4{--series:#65a30d}
.c5{--series:#dc2626}.c6{--series:#7c3aed}.c7{--series:#64748b}
svg polygon.series,svg rect.dot{fill:var(--series)}
svg line.whisker{stroke:var(--series);stroke-width:3;stroke-linecap:round;opacity:.55}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.5rem 0 1rem;font-size:.9rem}
.legend span{overflow-wrap:anywhere}
.legend span::before{content:"";display:inline-block;width:.75em;height:.75em;margin-right:.45em;border-radius:50%;
background:var(--series)}
svg .grid{stroke:var(--line)}svg polyline{fill:none;stroke:var(--series,var(--curve))}
svg .raw{opacity:.3}svg .curve{stroke-width:2.2}
svg rect.before{fill:var(--before)}svg rect.after{fill:var(--after)}svg .band{opacity:.13}
svg line.before{stroke:var(--before)}svg line.after{stroke:var(--after)}svg line.level{stroke-dasharray:5 4}
svg text.before{fill:var(--before)}svg text.after{fill:var(--after)}
.film{display:flex;gap:1rem;overflow-x:auto;padding-bottom:.5rem}
.frame{flex:0 0 224px;padding:.6rem;background:var(--card);border:1px solid var(--line);border-radius:10px}
.picture{position:relative}.picture img{display:block;width:100%;border-radius:6px}
.marker{position:absolute;width:18px;height:18px;margin:-9px 0 0 -9px;border:2px solid #fff;border-radius:50%;
box-shadow:0 0 0 2px #000}
.frame small{display:block;margin-top:.3rem;overflow-wrap:anywhere}
blockquote{margin:.5rem 0;padding-left:.6rem;border-left:3px solid var(--curve);font-size:.85rem;overflow-wrap:anywhere}
code{font-weight:600}pre{overflow-x:auto;font-size:.8rem}
.verdict{padding:.1rem .5rem;border-radius:99px;color:#fff;background:#15803d;font-size:.8rem}
ul{padding-left:1.2rem}
.verdict.failure{background:#b91c1c}.verdict.warning{background:#b45309}
details{margin:.4rem 0;padding:.5rem .9rem;background:var(--card);border:1px solid var(--line);border-radius:10px}
summary{cursor:pointer}
"""
