"""The control plane: catalogue and route policies in, xDS resources out.

    policy.py ──┐
    guard.py ───┼─> snapshot.py ──> resources.py, routes.py ──> cache.py ──> ads.py ──> gRPC, Envoy
    catalogue ──┘   pure, immutable  renders for the node's kind  the newest   streams

A snapshot is a pure function of what was known before and of what the registry says now. It is checked
and replaced whole; streams only ever show the newest.
"""
