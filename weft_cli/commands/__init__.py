"""One file a command. Each imports what it needs when it runs, so that ``weft --help`` is instant."""
