"""The mini world: a procedural renderer of people with exact ground truth, and the weights trained
on it.
"""
