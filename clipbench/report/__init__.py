"""Findings → page, tables for a paper, and the figures' files."""
