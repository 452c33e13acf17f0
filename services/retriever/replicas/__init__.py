"""What keeps a process up with the change log, its segments few, and a snapshot of them on disk."""
