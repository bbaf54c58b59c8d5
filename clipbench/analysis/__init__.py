"""Tables → findings. No torch, no matplotlib, no colours; nothing is printed.

places.py          what is compared at each place of clipping, and what with
choice.py          the one rule of choice; what tuning chose; what lies at the edge of a space
settings.py        what defines a run, and the words for it
steps.py           which training steps count, how many were clipped, and whether their seconds compare
thresholds.py      the level that a rule held the norm against, step by step
group.py           the runs of one task, scale and optimizer, sorted into configurations
parts.py           which runs belong together
groups.py          how they are read from the tables
ranking.py         methods, each at its chosen configuration, compared with the reference
comparison.py      which configurations may be compared, and the choice among them
conditions.py      the same methods under each condition of evaluation
verdict.py         what may be said of that, in a sentence
notes.py           what limits it
names.py           names as the field prints them
amounts.py         differences as text
sensitivity.py     what was tried, and what is best where
target.py          when runs reached what none reached in tuning
across.py          several tasks on one scale
noise.py           what `clipbench tails` measured, in words
"""
