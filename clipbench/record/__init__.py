"""What a results folder holds: the tables, and what is there of unfinished runs."""
