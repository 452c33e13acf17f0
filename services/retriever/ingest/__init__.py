"""Documents on their way in: taken off the wire, kept until their turn, worked off by jobs; collections moved."""
