"""Stubs of protos/weft/mesh, made by `make gen`."""
