"""Plain text handling for models that work on words: sentences, terms, questions, tokens."""
