"""Makes all-MiniLM-L6-v2 ready: fetched, checked, turned into int8 ONNX, kept in a cache directory.

Needed only when an embedder of that model is prepared or opened; the extra ``minilm`` brings the libraries.
"""
