"""Session stores, one file per backend, chosen by the scheme of WEFT_ORCHESTRATOR__SESSIONS."""
