//! Gaussian-multipole electrostatics: one bilinear form U(p, q) of sources and receivers, and its gradients.
//!
//! The energy is ½ U(p, p); potentials and features are dU/dq; forces, virials and every Hessian-vector product are
//! gradients of U, the latter computed with dual numbers. Each physical term has a file of its own; `prepared` adds them.
//! Imports `arithmetic`, `special`, `lattice`, `neighbors` and `limits`.

mod background;
pub mod corrections;
pub mod density;
mod kernel;
mod matrix;
pub mod mesh;
mod options;
pub(crate) mod own;
pub(crate) mod pair;
pub mod plan;
mod prepared;
pub(crate) mod real;
pub mod reciprocal;
mod waves;

pub use corrections::Correction;
pub use density::{Density, Gradient, Want};
pub use options::{Method, Options};
pub use plan::{Plan, Purpose};
pub(crate) use prepared::summed_axes;
pub use prepared::{Boundary, Prepared};
pub use waves::{Waves, longest_waves};
