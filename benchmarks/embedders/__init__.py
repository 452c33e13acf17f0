"""Embedders for benchmarks alone: plugins of the retriever where ``benchmarks.retriever_service`` runs it."""
