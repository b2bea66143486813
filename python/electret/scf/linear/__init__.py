"""Linear systems with the Jacobian K of a self-consistent residual.

`blocks` has K with block-diagonal parts, by the native layer on the CPU and by `device` on a device;
`operator` has K given by its products; `border` has the constraint of each system and `gmres` the iteration.
"""
