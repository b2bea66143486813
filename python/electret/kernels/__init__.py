"""numpy layer: checks arguments and calls one native kernel for each function or class.

Imports numpy and `electret._native` only.
"""
