"""Try the methods beside every node of the host that takes part in a sampling.

table.py    which of the host's nodes are tried, with which values, and why others are not
methods.py  every method of the pack as a pair: sampled with it, and what that must equal
laws.py     one node beside one method: equal, refused in words, or wrong
"""
