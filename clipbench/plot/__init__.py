"""Findings → figures. torch is never imported.

looks.py         the colour and the dash of each method
style.py         fonts, axes: what all figures share
comparison.py    a  loss, training and validation metric against step
levels.py        b  final metric against clipping level
distribution.py  c  gradient norms: histogram, density, tail, share of steps clipped
trajectory.py    d  gradient norm before and after clipping over time
tails.py         the figure of `clipbench tails`
"""
