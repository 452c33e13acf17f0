"""Where jobs are kept: one module for each scheme of a store or broker."""
