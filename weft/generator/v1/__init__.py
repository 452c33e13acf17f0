"""Version 1 of the contract: it only grows."""
