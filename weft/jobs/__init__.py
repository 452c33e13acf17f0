"""Stubs of protos/weft/jobs, made by `make gen`."""
