"""Stubs of protos/weft/generator, made by `make gen`."""
