"""Prompt templates: how messages and passages become what a chat model reads.

    files ──(file.py: read, checked)──> Template ──┐
    weights ─────────────────(library.py)──────────┴─> Templates.choose -> one version -> Template.render(request)
    passages ──(fence.py)──> `sources`, data that can't end its own fence

A template is a file, `*.jinja`: a front matter in YAML, then what the system and the user say, in Jinja.

    ---
    name: default
    version: "1"
    variables: [sources, question, grounded_only, no_answer]
    ---
    system:
    You answer questions …{% if grounded_only %} …{% endif %}

    user:
    {{ sources }}

    {{ question }}

`system:` and `user:` stand alone on a line. They are looked for in the file, never in what was rendered: nothing that
a caller or a document says can open a section. The built-in ones lie in `builtin/`; a directory of the operator's is
read beside it. All are checked at start, and rendered once with made-up values.
"""
