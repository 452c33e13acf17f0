"""Stubs of protos/weft/retriever, made by `make gen`."""
