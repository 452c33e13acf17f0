"""Stubs of protos/weft/vllm/v1, made by `make gen`."""
