"""Studies: tune every method alike, choose on validation, compare on fresh seeds."""
