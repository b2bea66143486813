//! Coulomb kernels in reciprocal space: the transform of 1/r, exactly truncated along open axes (Rozzi et al.,
//! Phys. Rev. B 73, 205119).
//!
//! Along open axes the completed lattice has fixed length L, so k depends on the cell only through its part in the
//! periodic directions: each kernel gives its value and its derivative in that part's square, k∥².

use crate::arithmetic::Scalar;
use crate::lattice::dimensions;
use crate::special::bessel::bessel_k01;
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
        self.combine(&self.parallel(parallel2), &self.open(open2))
    }

    /// Factors of the kernel that depend on the part of k along the periodic axes.
    pub fn parallel<T: Scalar>(&self, square: T) -> Parallel<T> {
        let zero = T::zero();
        let mut out = Parallel {
            square,
            length: zero,
            functions: [zero; 2],
        };
        if square.value() == 0.0 || !matches!(self.dimensions, 1 | 2) {
            return out;
        }
        out.length = square.sqrt();
        let y = out.length * self.radius;
        if self.dimensions == 2 {
            out.functions[0] = (-y).exp();
        } else {
            let (k0, k1) = bessel_k01(y.value());
            let k1_prime = -k0 - k1 / y.value();
            out.functions = [y.chain(k0, -k1), y.chain(k1, k1_prime)];
        }
        out
    }

    /// Factors of the truncated kernel that depend on k⊥ only: cos(k⊥R) for slabs, J0 and J1 of k⊥R for wires.
    pub fn open(&self, square: f64) -> Open {
        let x = square.sqrt() * self.radius;
        let functions = match self.dimensions {
            3 => [0.0; 2],
            1 => [libm::j0(x), libm::j1(x)],
            // Along a slab's normal k R is a multiple of π, so only the cosine is left.
            _ => [x.cos(), 0.0],
        };
        Open {
            square,
            x,
            functions,
        }
    }

    /// G and dG/d(k∥²) at k ≠ 0.
    pub fn combine<T: Scalar>(&self, parallel: &Parallel<T>, open: &Open) -> (T, T) {
        let one = T::constant(1.0);
        if self.dimensions == 0 {
            let value = 4.0 * PI / open.square * (1.0 - open.functions[0]);
            return (T::constant(value), T::zero());
        }
        let radius = self.radius;
        if parallel.square.value() == 0.0 && self.dimensions < 3 {
            let value = match self.dimensions {
                2 => 1.0 - open.functions[0],
                // the transform of -2 ln(ρ/Å), truncated at R
                _ => 1.0 - open.functions[0] - open.x * radius.ln() * open.functions[1],
            };
            return (T::constant(4.0 * PI / open.square * value), T::zero());
        }
        let inverse = (parallel.square + T::constant(open.square)).recip();
        // Factor of 4π/k², and its derivative in k∥².
        let (bracket, slope) = match self.dimensions {
            3 => (one, T::zero()),
            2 => {
                let decay = parallel.functions[0] * open.functions[0];
                let slope = decay * parallel.length.recip() * (0.5 * radius);
                (one - decay, slope)
            }
            _ => {
                let ([k0, k1], [j0, j1]) = (parallel.functions, open.functions);
                let y = parallel.length * radius;
                // d/dy: K0' = -K1 and (y K1)' = -y K0
                let slope = y * k0 * j0 - k1 * (open.x * j1);
                let slope = slope * parallel.length.recip() * (0.5 * radius);
                (one + k0 * (open.x * j1) - y * k1 * j0, slope)
            }
        };
        let value = bracket * inverse * (4.0 * PI);
        (value, (slope * (4.0 * PI) - value) * inverse)
    }
}

/// Functions of the part of k along periodic axes: e^{-k∥R} of a slab, K0 and K1 of k∥R of a wire.
#[derive(Clone, Copy, Debug)]
pub struct Parallel<T> {
    square: T,
    length: T,
    functions: [T; 2],
}

/// Functions of the part of k along open axes: a cosine, or J0 and J1 of x = k⊥R.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    square: f64,
    x: f64,
    functions: [f64; 2],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arithmetic::Dual;

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
