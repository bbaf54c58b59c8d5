"""The training loop: batches in, rows out.

loop.py        trains one or several learners over one stream of batches
learner.py     a model being trained: its step, its rows, its checkpoint
step.py        from batches to gradients: plain, or accumulated over several batches
batches.py     a batch's way from the task to the model, and what it took
evaluation.py  metrics and mean loss over a split
metrics.py     metrics over training batches
schedule.py    the learning rate over time
four_bits.py   linear and recurrent layers in simulated four bits
"""
