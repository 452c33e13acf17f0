"""What a collection is searched in: immutable arrays of passages, words and vectors; how they are joined and stored."""
