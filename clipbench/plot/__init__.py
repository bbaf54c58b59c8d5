"""Findings → figures. torch is never imported.

looks.py         the colour and the dash of each method, the order of all
titles.py        which data a figure shows, in words
style.py         sizes, fonts, legends, axes: what all figures share
difference.py    a  each method minus the reference, paired by seed or repetition
comparison.py    b  loss, training and validation metric against step
levels.py        c  final metric against clipping level
distribution.py  d  gradient norms: histogram, density, tail, share of steps clipped
trajectory.py    e  gradient norm before and after clipping, and the level, over time
tails.py         the figure of `clipbench tails`
"""
