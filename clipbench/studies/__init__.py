"""Studies: tune every method alike, choose on validation, compare on fresh seeds.

spec.py      a study's file: methods, budget, seeds and spaces, read and checked
space.py     what trials are drawn from
contest.py   a study on one task with one optimizer, as runs
protocol.py  tunes, chooses, makes the final runs
results.py   what a study costs and what it has found, as data
"""
