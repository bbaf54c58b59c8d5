"""Findings → page, tables for a paper, and the figures' files.

draw.py          a results folder → its figures and page, side by side where there are many runs
figures.py       one group → its figures' files and its part of the page
page.py          the page: its parts, and what each shows
fill.py          templates/ filled in and escaped; what may go in as it is
cells.py         a row of its table
provenance.py    where the runs come from
data.py          what the page's figures show, as numbers
chart.py         the same as page.js draws it, rounded to what a pixel shows
panels.py        the page's small figures where there is no JavaScript
sensitivity.py   of them, over settings
divergence.py    of them, where runs diverge
across.py        of them, over tasks
svg.py           a figure as text for the page
table.py         the same tables for a paper, CSV with every digit; no matplotlib
markup.py        Markdown and LaTeX
frame.py         what the small figures share: size, fonts, the empty panel
text.py          numbers and names as both tables print them
"""
