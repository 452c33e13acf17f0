"""The generator: text from models, streamed. Models are attached by URL; `extractive:` needs nothing."""
