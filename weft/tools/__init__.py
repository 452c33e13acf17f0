"""Stubs of protos/weft/tools, made by `make gen`."""
