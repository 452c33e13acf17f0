"""Stubs of protos/weft/vllm, made by `make gen`."""
