"""From the bytes of a document to its passages: what kind it is, its text, its chunks; in processes of their own."""
