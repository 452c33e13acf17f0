"""From a query to its passages: filters, vectors, finding, fusion, reranking, and what is remembered."""
