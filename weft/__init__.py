"""Weft's SDK."""
