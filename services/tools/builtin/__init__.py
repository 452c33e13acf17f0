"""One file per tool, found by its name. Each has ``SPEC`` (what the tool is and when it is needed) and
``open(documents) -> ToolFunction``. A new tool is a new file here: nothing else names it, and the
conformance suite takes it up by itself."""
