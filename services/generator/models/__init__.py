"""Models, one file for each URL scheme."""
