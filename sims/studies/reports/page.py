"""The HTML frame of a report: one file that contains its style, for screen and print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

__all__ = ["cell", "page", "section", "table"]

_STYLE: Final = """
:root { --ink: #22303a; --soft: #5b6b76; --line: #dde4e8; --paper: #fff; --wash: #f4f7f8;
        --good: #1f7a4d; --bad: #b3323f; --doubt: #9a6700; --accent: #0b6e99; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--wash); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 3rem 4rem; background: var(--paper);
       min-height: 100vh; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .75rem; padding-top: .75rem;
     border-top: 2px solid var(--ink); }
h3 { font-size: 1.02rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
.kind { color: var(--accent); font-weight: 600; font-size: .82rem; letter-spacing: .08em;
        text-transform: uppercase; margin: 0 0 .4rem; }
.question { font-size: 1.15rem; color: var(--soft); }
.verdict { margin: 1.5rem 0; padding: .9rem 1.2rem; border-left: 6px solid; background: var(--wash);
           font-size: 1.05rem; max-width: none; }
.verdict strong { font-size: 1.15rem; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.verdict.doubt { border-color: var(--doubt); }
td.good { color: var(--good); font-weight: 600; } td.bad { color: var(--bad); font-weight: 600; }
td.doubt { color: var(--doubt); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem;
         margin: 1.25rem 0 0; padding: 0; list-style: none; }
.cards li { border: 1px solid var(--line); border-radius: .4rem; padding: .8rem 1rem; }
.cards b { display: block; font-size: 1.6rem; line-height: 1.2;
           font-variant-numeric: tabular-nums; }
.cards span { display: block; font-size: .83rem; color: var(--soft); line-height: 1.4; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: .75rem 0;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem .8rem .38rem 0;
         border-bottom: 1px solid var(--line); }
th { font-weight: 600; } thead th { border-bottom: 1.5px solid var(--ink); white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td code, p code { background: var(--wash); padding: .05rem .25rem; border-radius: .2rem; }
code, pre { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--wash); padding: .9rem 1.1rem; overflow-x: auto; border-radius: .4rem; }
figure { margin: 1.25rem 0 1.75rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .3rem; }
.soft { color: var(--soft); font-size: .88rem; }
li { margin: .3rem 0; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem;
         font-size: .9rem; }
a { color: var(--accent); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .75rem; }
@media (max-width: 40rem) { main { padding: 1.25rem; } h1 { font-size: 1.6rem; } }
@media print {
  body { background: #fff; font-size: 10.5pt; } main { padding: 0; max-width: none; }
  h2 { break-after: avoid; } figure, tr, .cards li, .verdict { break-inside: avoid; }
  nav { display: none; } pre { white-space: pre-wrap; } .scroll { overflow: visible; }
  a { color: inherit; text-decoration: none; }
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return the complete file; ``body`` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(anchor: str, title: str, *content: str) -> str:
    """Return a section with a heading that links can refer to."""
    inside = "\n".join(each for each in content if each)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<h2 id="{anchor}-title">{escape(title)}</h2>\n{inside}\n</section>'
    )


def cell(text: str, kind: str = "") -> str:
    """Return a table cell; ``kind`` is a CSS class such as ``number`` or ``good``."""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells (:func:`cell`). A heading that ends in # is for numbers."""
    heads = "".join(
        f'<th scope="col" class="number">{escape(each.removesuffix("#"))}</th>'
        if each.endswith("#")
        else f'<th scope="col">{escape(each)}</th>'
        for each in head
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )
