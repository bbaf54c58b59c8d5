"""clipbench: should I clip, how, at what level, and does it matter?"""

__version__ = "0.1.0"
