"""Try the methods beside every node of the host that takes part in a sampling.

table.py      which of the host's nodes are tried, with which values, and why others are not
stand_ins.py  what other packs put on a model, one stand-in per kind
strengths.py  every method with a strength, with random weights
methods.py    every method as a pair: sampled with it, and what that must equal
families.py   two people on tiny networks of the transformer families
laws.py       one node beside one method: equal, refused in words, or wrong
"""
