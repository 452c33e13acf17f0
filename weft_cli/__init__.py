"""The command line ``weft``: starts a mesh on this machine, and talks to one anywhere.

    main.py        the commands and their options; nothing heavy is imported before one is chosen
    commands/      one file a command
    running.py     how a command ends: exit codes, errors in words or as JSON
    output.py      text on a terminal and in a pipe
    local.py       a mesh on this machine, from its lock to the last child's end: topology.py (what to start),
                   supervisor.py (keep it running, drain it in order), leash.py (no child outlives it), ready.py,
                   lock.py (one mesh per data directory), ports.py, logs.py (prefixed lines)
    demo.py        the whole mesh, shown and checked: ``make demo``

It imports the SDK and no service: services are processes that it starts, and a mesh that it dials.
"""
