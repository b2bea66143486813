"""Native kernels on CUDA tensors: plans, operators at fixed atoms, neighbour search, libraries.

Private; used by `electret.torch` and `electret.scf`.
"""
