//! Coulomb kernels in reciprocal space: the transform of 1/r, exactly truncated along open axes (Rozzi et al.,
//! Phys. Rev. B 73, 205119).
//!
//! Along open axes the completed lattice has fixed length L, so k depends on the cell only through its part in the
//! periodic directions: each kernel gives its value and its derivative in that part's square, k∥².

use crate::bessel::bessel_k01;
use crate::lattice::dimensions;
use crate::scalar::Scalar;
use std::f64::consts::PI;

/// The kernel of one boundary, with truncation radius R = L/2.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    dimensions: usize,
    radius: f64,
}

impl Kernel {
    pub fn new(pbc: [bool; 3], open_length: f64) -> Self {
        Self {
            dimensions: dimensions(pbc),
            radius: 0.5 * open_length,
        }
    }

    /// Value at k = 0: zero with a neutralising background in 3-D, the finite limit elsewhere.
    pub fn at_zero(&self) -> f64 {
        let r2 = self.radius * self.radius;
        match self.dimensions {
            3 => 0.0,
            2 => -2.0 * PI * r2,
            1 => PI * r2 - 2.0 * PI * r2 * self.radius.ln(),
            _ => 2.0 * PI * r2,
        }
    }

    /// G and dG/d(k∥²) at k ≠ 0, from k∥² and the square of the part of k along open axes.
    pub fn evaluate<T: Scalar>(&self, parallel2: T, open2: f64) -> (T, T) {
        match self.dimensions {
            3 => {
                let inverse = parallel2.recip();
                let value = inverse * (4.0 * PI);
                (value, -(value * inverse))
            }
            2 => self.slab(parallel2, open2),
            1 => self.wire(parallel2, open2),
            _ => {
                let k = open2.sqrt();
                let value = 4.0 * PI / open2 * (1.0 - (k * self.radius).cos());
                (T::constant(value), T::zero())
            }
        }
    }

    fn slab<T: Scalar>(&self, parallel2: T, open2: f64) -> (T, T) {
        // k_z R is a multiple of π, so only the cosine is left.
        let cos = (open2.sqrt() * self.radius).cos();
        if parallel2.value() == 0.0 {
            return (T::constant(4.0 * PI / open2 * (1.0 - cos)), T::zero());
        }
        let parallel = parallel2.sqrt();
        let decay = (parallel * -self.radius).exp() * cos;
        let inverse = (parallel2 + T::constant(open2)).recip();
        let value = (T::constant(1.0) - decay) * inverse * (4.0 * PI);
        let slope = decay * parallel.recip() * (0.5 * self.radius);
        (value, (slope * (4.0 * PI) - value) * inverse)
    }

    fn wire<T: Scalar>(&self, parallel2: T, open2: f64) -> (T, T) {
        let radius = self.radius;
        let open = open2.sqrt();
        let x = open * radius;
        let (j0, j1) = (libm::j0(x), libm::j1(x));
        if parallel2.value() == 0.0 {
            // the transform of -2 ln(ρ/Å), truncated at R
            let value = 4.0 * PI / open2 * (1.0 - j0 - x * radius.ln() * j1);
            return (T::constant(value), T::zero());
        }
        let parallel = parallel2.sqrt();
        let y = parallel * radius;
        let (k0, k1) = bessel_k01(y.value());
        let k0_prime = -k1;
        let k1_prime = -k0 - k1 / y.value();
        let k0 = y.chain(k0, k0_prime);
        let k1 = y.chain(k1, k1_prime);
        let inverse = (parallel2 + T::constant(open2)).recip();
        let bracket = T::constant(1.0) + k0 * (x * j1) - y * k1 * j0;
        let value = bracket * inverse * (4.0 * PI);
        // d/dy of the bracket: K0' = -K1 and (y K1)' = -y K0
        let slope = y * k0 * j0 - k1 * (x * j1);
        let slope = slope * parallel.recip() * (0.5 * radius);
        (value, (slope * (4.0 * PI) - value) * inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Dual;

    #[test]
    fn derivatives_and_tangents() {
        for (pbc, open2) in [
            ([true, true, true], 0.0),
            ([true, true, false], (2.0 * PI * 3.0 / 14.0f64).powi(2)),
            ([true, false, false], (2.0 * PI * 2.0 / 14.0f64).powi(2)),
        ] {
            let kernel = Kernel::new(pbc, 14.0);
            for k2 in [0.05, 0.6] {
                let (value, slope) = kernel.evaluate(Dual::new(k2, 1.0), open2);
                assert!((value.tangent - slope.value).abs() < 1e-11 * slope.value.abs());
                let h = 1e-6;
                let plus = kernel.evaluate(k2 + h, open2).1;
                let minus = kernel.evaluate(k2 - h, open2).1;
                let second = (plus - minus) / (2.0 * h);
                assert!((slope.tangent - second).abs() < 1e-5 * second.abs());
            }
        }
    }
}
