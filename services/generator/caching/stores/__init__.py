"""Stores of kept answers: one file each, named by its URL's scheme."""
