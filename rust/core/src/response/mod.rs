//! Linear response of self-consistent models: the Jacobian of a residual in multipoles and Fermi level, solves with it and
//! its dominant eigenvalue.
//!
//! The Jacobians of all families have one form per system, K = [[L + R M, c], [wᵀ, d]], with M an operator of a
//! [`Geometry`](crate::geometry::Geometry), L and R block diagonal over atoms, and the row of the constraint
//! ([`border`]: total charge or Fermi level). Charge may flow along edges ([`flow`]). Systems are solved by factors ([`dense`]) or by iterations ([`krylov`]).

mod border;
mod dense;
mod eigen;
mod equilibration;
mod flow;
mod jacobian;
mod krylov;
mod long_waves;
mod operator;
mod system;

pub use border::SMALLEST_SCHUR;
pub use eigen::{Eigenpairs, dominant_pairs};
pub use equilibration::{Elements, Equilibrium, Reservoir, equilibrate};
pub use flow::{CAPACITY, Edges};
pub use jacobian::{Blocks, DENSE_LIMIT, Jacobian, Method, Settings, Solution, Status};
pub use krylov::{LEAST_GAIN, RESTART, TOLERANCE, most_products};
pub use long_waves::most_waves;
pub use operator::Operator;
