"""What `vllm+grpc://` is made of: the client of vLLM's gRPC service, and the tokenizer that it gives away."""
