"""The node's side of the core: enrolment, heartbeats, uploads, what the core wants, and shadows.

Rules:
- Serving never waits for the core, and a node without one works for ever. Nothing here runs on a thread that answers.
- The core only chooses: what may run is what the registry signed.
- What comes from the network is read strictly; whatever it is, the node goes on.
"""
