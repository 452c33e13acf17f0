"""Stubs of protos/weft/common, made by `make gen`."""
