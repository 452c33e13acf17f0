"""What `vllm:` is made of. Only `engine.py` imports vLLM, and it is imported only when a model starts."""
