"""Findings → page, tables for a paper, and the figures' files.

draw.py          a results folder → its figures and page, side by side where there are many runs; imports matplotlib when it draws
figures.py       one group → its figures' files and its part of the page
page.py          the page: templates/ filled in; cells.py: a row of its table; provenance.py: how the runs came about
panels.py        its small figures; sensitivity.py, divergence.py, across.py: those over settings and over tasks; svg.py: as text
table.py         the same tables for a paper: Markdown, LaTeX, CSV; no matplotlib
text.py          numbers and names as both tables print them
"""
