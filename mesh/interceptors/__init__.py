"""What every call passes through: ``incoming`` at the server, ``outgoing`` at the channel."""
