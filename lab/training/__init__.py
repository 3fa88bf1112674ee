"""Trainers on diffusers and accelerate, one file per thing trained.

`networks` builds the mini family's networks, `convert` turns their weights into the host's key
layout and back, `tokens` turns captions into token ids, `preview` samples pictures without the
host. Nothing here is imported by the nodes.
"""
