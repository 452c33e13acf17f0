"""The library under every service: it knows gRPC, registries, xDS and OpenTelemetry, and nothing of RAG."""
