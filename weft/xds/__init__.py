"""Stubs of protos/weft/xds, made by `make gen`."""
