"""Trainers on diffusers and accelerate, one file per thing trained.

`networks` builds the mini family's networks, `convert` turns their weights into the host's key
layout and back, `tokens` turns captions into token ids, `preview` samples images without the
host. Nothing that ships imports this.
"""
