//! Linear response of self-consistent models: the Jacobian of a residual in multipoles and Fermi level, its solves and
//! its dominant eigenvalue.
//!
//! The Jacobians of all families have one form per system, K = [[L + R M, c], [1_q^T, 0]], with M one of the operators
//! of a [`Geometry`](crate::geometry::Geometry) and L, R block diagonal over atoms.

mod dense;
mod eigen;
mod equilibration;
mod jacobian;
mod krylov;
mod long_waves;
mod operator;
mod system;

pub use equilibration::{Elements, Equilibrium, Reservoir, equilibrate};
pub use jacobian::{Blocks, Eigenpairs, Jacobian, Method, Settings, Solution, Status};
pub use long_waves::most_waves;
pub use operator::Operator;
