"""One run, or a group of them side by side: from settings to rows in the tables."""
