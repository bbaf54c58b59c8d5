"""The training loop: batches in, rows out.

loop.py     trains one or several learners over one stream of batches
learner.py  a model being trained: its step, its rows, its checkpoint
batches.py  batches on the device, and what they took
"""
