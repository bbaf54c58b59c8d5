"""Studies: in each repetition, tune every method alike, choose on validation, run the choice at a fresh seed.

spec.py      a study's file: methods, budget, repetitions and spaces, read and checked
space.py     what trials are drawn from
halving.py   at which steps poor trials are stopped, and which go on
contest.py   a study on one task with one optimizer, as runs
protocol.py  tunes, chooses, makes the final runs
results.py   what a study costs and what it has found, as data
"""
