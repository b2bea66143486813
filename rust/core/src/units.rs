//! The one place where units enter: lengths in Å, charges in e, energies in eV.

/// Coulomb constant e²/(4πε₀) in eV·Å/e².
pub const COULOMB_CONSTANT: f64 = 14.3996454784255;
