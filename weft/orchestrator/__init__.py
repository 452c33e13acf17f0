"""Stubs of protos/weft/orchestrator, made by `make gen`."""
