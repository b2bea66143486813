//! The Jacobian of a residual in multipoles and Fermi level, K = [[L + R M, c], [wᵀ, d]] of each system of a batch: choice of
//! the method, solves, products and eigenpairs.

use super::border::{Border, split};
use super::dense::{self, Factors, Singular, add_scaled, multiply, multiply_transpose};
use super::eigen::{self, Eigenpair, Eigenpairs};
use super::flow::{Edges, Flow};
use super::krylov::{self, Limits};
use super::long_waves::{LongWaves, most_waves};
use super::operator::{Operator, check_operator};
use super::system::{Approximation, System};
use crate::error::{Error, Result, check_finite};
use crate::geometry::Geometry;
use crate::systems::Members;
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// Method of solves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Auto,
    Dense,
    Krylov,
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "dense" => Ok(Self::Dense),
            "krylov" => Ok(Self::Krylov),
            _ => Err(Error::Unsupported {
                what: format!("method {name:?} is unknown"),
                remedy: "use \"auto\", \"dense\" or \"krylov\"".into(),
            }),
        }
    }
}

/// Unknowns up to which `auto` takes the dense solver.
///
/// CPU ms on one thread (AMD Zen 4) for periodic water, l ≤ 1, features of two widths. Dense: matrix once per geometry,
/// factors once per K, each solve; Krylov: each solve of 30 to 45 products.
///
/// | atoms | matrix | factors | solve | Krylov |
/// |---|---|---|---|---|
/// | 81 | 2.2 | 1.7 | 0.17 | 4.4 |
/// | 192 | 17 | 10 | 0.73 | 12 |
/// | 384 | 84 | 72 | 5.2 | 34 |
/// | 768 | 1000 | 540 | 24 | 126 |
///
/// The dense solver wins up to about 85 atoms for one solve, 190 atoms for eight K of one geometry, and 450 atoms for eight
/// solves with one K. The limit lies between, as the number of solves is unknown.
pub const DENSE_LIMIT: usize = 1000;

/// Settings of the solver.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub method: Method,
    /// Relative residual at which Krylov iterations stop.
    pub tolerance: f64,
    pub max_iterations: Option<usize>,
}

/// Blocks of a batch, in the order of its atoms.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// L `[atom][lm][lm]`; none is the identity.
    pub left: Option<&'a [f64]>,
    /// R `[atom][lm][row]`; none is the identity, for [`Operator::Coulomb`] only.
    pub right: Option<&'a [f64]>,
    /// c `[atom][lm]`; none is 1_q.
    pub column: Option<&'a [f64]>,
    /// Charge that flows along edges; none where every row is as L and R have it.
    pub flow: Option<Edges<'a>>,
    /// True for systems at constant charge, `[system]`.
    pub constrained: &'a [bool],
}

/// Status of the solve of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok = 0,
    Singular = 1,
    NotConverged = 2,
    /// Not positive definite, in a Jacobian that must be ([`Jacobian::definite`]).
    Indefinite = 3,
}

/// Solutions of a batch; zero where the status is not [`Status::Ok`].
#[derive(Clone, Debug)]
pub struct Solution {
    /// `[atom][lm]`.
    pub x: Vec<f64>,
    /// `[system]`.
    pub y: Vec<f64>,
    pub status: Vec<Status>,
}

/// Jacobians of a batch over one geometry.
pub struct Jacobian {
    geometry: Arc<Geometry>,
    operator: Operator,
    settings: Settings,
    definite: bool,
    systems: Vec<System>,
}

fn check_entries(array: &'static str, values: &[f64], shape: &[usize]) -> Result<()> {
    let expected: usize = shape.iter().product();
    if values.len() != expected {
        return Err(Error::Shape {
            array,
            found: format!("{} entries", values.len()),
            expected: format!("{expected}: {shape:?}"),
        });
    }
    check_finite(array, values)
}

impl Jacobian {
    pub fn new(
        geometry: Arc<Geometry>,
        operator: Operator,
        blocks: &Blocks,
        settings: Settings,
    ) -> Result<Self> {
        check_operator(operator, &geometry)?;
        let (n_atoms, n_lm) = (geometry.n_atoms(), geometry.n_lm());
        let n_rows = operator.n_rows(&geometry);
        if let Some(left) = blocks.left {
            check_entries("left", left, &[n_atoms, n_lm, n_lm])?;
        }
        match blocks.right {
            Some(right) => check_entries("right", right, &[n_atoms, n_lm, n_rows])?,
            None if operator == Operator::Coulomb => {}
            None => {
                return Err(Error::Unsupported {
                    what:
                        "right is missing, but the rows of operator \"features\" are not multipoles"
                            .into(),
                    remedy: "give right [n_atoms, n_lm, n_widths * n_features_lm]".into(),
                });
            }
        }
        if let Some(column) = blocks.column {
            check_entries("column", column, &[n_atoms, n_lm])?;
        }
        if let Some(edges) = blocks.flow {
            check_entries("placement", edges.placement, &[n_atoms])?;
        }
        if blocks.constrained.len() != geometry.n_systems() {
            return Err(Error::Shape {
                array: "constrained",
                found: format!("{} entries", blocks.constrained.len()),
                expected: format!("{}: one per system", geometry.n_systems()),
            });
        }
        check_tolerance(settings.tolerance)?;
        let members = geometry.members();
        let mut flows = blocks
            .flow
            .map_or(Ok(Vec::new()), |edges| flows(&edges, members))?;
        flows.reverse();
        let systems = (0..geometry.n_systems())
            .map(|index| {
                let n_atoms = members.of(index).len();
                let gather = |values: &[f64], width| members.gather(index, values, width);
                let constrained = blocks.constrained[index];
                let flow = flows.pop();
                let mut column = match blocks.column {
                    Some(column) => gather(column, n_lm),
                    None => {
                        let charge = |k: usize| if k.is_multiple_of(n_lm) { 1.0 } else { 0.0 };
                        (0..n_atoms * n_lm).map(charge).collect()
                    }
                };
                if let Some(flow) = &flow {
                    flow.through(&mut column, n_lm, 1);
                }
                System {
                    index,
                    n_atoms,
                    n_lm,
                    n_rows,
                    left: blocks.left.map(|left| gather(left, n_lm * n_lm)),
                    right: blocks.right.map(|right| gather(right, n_lm * n_rows)),
                    symmetric: operator == Operator::Coulomb
                        && blocks.right.is_none()
                        && blocks.column.is_none()
                        && flow.is_none()
                        && blocks.left.is_none_or(|left| symmetric(left, n_lm)),
                    flow,
                    border: Border::new(column, n_lm, constrained),
                    constrained,
                    dense: match settings.method {
                        Method::Auto => n_atoms * n_lm <= DENSE_LIMIT,
                        Method::Dense => true,
                        Method::Krylov => false,
                    },
                    factors: OnceLock::new(),
                    approximation: OnceLock::new(),
                }
            })
            .collect();
        Ok(Self {
            geometry,
            operator,
            settings,
            definite: false,
            systems,
        })
    }

    /// Makes solves fail with [`Status::Indefinite`] where the symmetric L + M is not positive definite: of changes at fixed
    /// charge in constrained systems, of all changes in the others.
    pub fn definite(self) -> Self {
        Self {
            definite: true,
            ..self
        }
    }

    /// The smallest eigenvalue of L + M of one system, of changes at fixed charge in a constrained one, and the row with
    /// the largest weight in its eigenvector.
    pub fn softest(&self, index: usize) -> Option<(f64, usize)> {
        let system = &self.systems[index];
        dense::softest(&system.assemble(self.matrix(system)?), system.constrained)
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// "dense" or "krylov" for each system.
    pub fn methods(&self) -> Vec<&'static str> {
        self.systems
            .iter()
            .map(|system| if system.dense { "dense" } else { "krylov" })
            .collect()
    }

    /// Solves K (x, y) = (residual, constraint), or with Kᵀ. Failed systems have zeros and their status.
    pub fn solve(&self, residual: &[f64], constraint: &[f64], transpose: bool) -> Result<Solution> {
        self.solve_within(residual, constraint, transpose, self.settings.tolerance)
    }

    /// [`Self::solve`] with another relative residual of Krylov iterations.
    pub fn solve_within(
        &self,
        residual: &[f64],
        constraint: &[f64],
        transpose: bool,
        tolerance: f64,
    ) -> Result<Solution> {
        check_tolerance(tolerance)?;
        self.check("residual", residual, "constraint", constraint)?;
        let results: Vec<_> = self
            .systems
            .par_iter()
            .map(|system| {
                let r = self
                    .geometry
                    .members()
                    .gather(system.index, residual, system.n_lm);
                self.solve_system(system, &r, constraint[system.index], transpose, tolerance)
            })
            .collect();
        let mut out = Solution {
            x: vec![0.0; residual.len()],
            y: vec![0.0; constraint.len()],
            status: vec![Status::Ok; constraint.len()],
        };
        for (system, result) in self.systems.iter().zip(results) {
            match result {
                Ok((x, y)) => {
                    let members = self.geometry.members();
                    members.scatter(system.index, &x, system.n_lm, &mut out.x);
                    out.y[system.index] = y;
                }
                Err(status) => out.status[system.index] = status,
            }
        }
        Ok(out)
    }

    /// (r, s) = K (x, y), or Kᵀ (x, y).
    pub fn apply(&self, x: &[f64], y: &[f64], transpose: bool) -> Result<(Vec<f64>, Vec<f64>)> {
        self.check("x", x, "y", y)?;
        let results: Vec<_> = self
            .systems
            .par_iter()
            .map(|system| {
                let mut v = self.geometry.members().gather(system.index, x, system.n_lm);
                v.push(y[system.index]);
                self.apply_system(system, &v, transpose)
            })
            .collect();
        let (mut r, mut s) = (vec![0.0; x.len()], vec![0.0; y.len()]);
        for (system, result) in self.systems.iter().zip(&results) {
            let (local, value) = split(result);
            let members = self.geometry.members();
            members.scatter(system.index, local, system.n_lm, &mut r);
            s[system.index] = value;
        }
        Ok((r, s))
    }

    /// Eigenvalue of largest modulus of T = -R M with its eigenvectors, per system.
    pub fn eigenpairs(&self) -> Result<Eigenpairs> {
        let n = self.geometry.n_atoms() * self.geometry.n_lm();
        let pairs: Vec<Eigenpair> = self
            .systems
            .par_iter()
            .map(|system| self.eigenpair(system, true))
            .collect::<Result<_>>()?;
        let mut out = Eigenpairs {
            values: pairs.iter().map(|pair| pair.value).collect(),
            right: vec![[0.0; 2]; n],
            left: vec![[0.0; 2]; n],
        };
        for (system, pair) in self.systems.iter().zip(&pairs) {
            let members = self.geometry.members();
            members.scatter(system.index, &pair.right, system.n_lm, &mut out.right);
            members.scatter(system.index, &pair.left, system.n_lm, &mut out.left);
        }
        Ok(out)
    }

    /// Largest modulus of the eigenvalues of T = -R M, `[system]`.
    pub fn spectral_radius(&self) -> Result<Vec<f64>> {
        self.systems
            .par_iter()
            .map(|system| {
                let [re, im] = self.eigenpair(system, false)?.value;
                Ok(re.hypot(im))
            })
            .collect()
    }

    fn check(&self, array: &'static str, x: &[f64], scalar: &'static str, y: &[f64]) -> Result<()> {
        check_entries(array, x, &[self.geometry.n_atoms(), self.geometry.n_lm()])?;
        check_entries(scalar, y, &[self.geometry.n_systems()])
    }

    fn solve_system(
        &self,
        system: &System,
        r: &[f64],
        s: f64,
        transpose: bool,
        tolerance: f64,
    ) -> std::result::Result<(Vec<f64>, f64), Status> {
        let mut b = r.to_vec();
        b.push(s);
        let mut x = if system.dense {
            if self.definite && !self.has_minimum(system) {
                return Err(Status::Indefinite);
            }
            let factors = self.factors(system).ok_or(Status::Singular)?;
            factors
                .solve(&b, transpose)
                .map_err(|Singular| Status::Singular)?
        } else {
            self.iterate(system, &b, transpose, tolerance)?
        };
        let y = x.pop().unwrap_or(0.0);
        Ok((x, y))
    }

    fn iterate(
        &self,
        system: &System,
        b: &[f64],
        transpose: bool,
        tolerance: f64,
    ) -> std::result::Result<Vec<f64>, Status> {
        let waves = self.approximation(system).waves.as_ref();
        let found = self.iterate_with(system, b, transpose, tolerance, waves);
        if found.is_err() && waves.is_some() {
            return self.iterate_with(system, b, transpose, tolerance, None);
        }
        found
    }

    /// Parts of the preconditioner, cached.
    fn approximation<'a>(&self, system: &'a System) -> &'a Approximation {
        if let Some(found) = system.approximation.get() {
            return found;
        }
        // Outside the lock, as the factors are.
        let inverses = system.inverses();
        let limit = most_waves(system.n());
        let waves = self.operator.waves(&self.geometry, system.index, limit);
        let waves = waves.and_then(|waves| LongWaves::new(system, waves, inverses.as_ref()));
        let made = Approximation { inverses, waves };
        system.approximation.get_or_init(|| made)
    }

    fn iterate_with(
        &self,
        system: &System,
        b: &[f64],
        transpose: bool,
        tolerance: f64,
        waves: Option<&LongWaves>,
    ) -> std::result::Result<Vec<f64>, Status> {
        let limits = Limits {
            tolerance,
            products: self
                .settings
                .max_iterations
                .unwrap_or_else(|| krylov::most_products(b.len())),
        };
        let inverses = self.approximation(system).inverses.as_ref();
        let inner = |x: &[f64]| system.approximate_inverse(inverses, waves, x, transpose);
        let preconditioner = system.border.inverse(inner, transpose);
        if system.symmetric {
            let apply = |x: &[f64]| self.inner_product(system, x, false);
            let found = krylov::projected_cg(apply, &preconditioner, b, system.n_lm, limits);
            if found.is_ok() || self.definite {
                return found;
            }
        }
        let apply = |v: &[f64]| self.apply_system(system, v, transpose);
        krylov::gmres(apply, |v| preconditioner.solve(v), b, limits).ok_or(Status::NotConverged)
    }

    /// K v, or Kᵀ v, of v = (x, y).
    fn apply_system(&self, system: &System, v: &[f64], transpose: bool) -> Vec<f64> {
        let (x, y) = split(v);
        let product = self.inner_product(system, x, transpose);
        system.border.product(product, x, y, transpose)
    }

    /// J x = L x + R M x with its flow, or Jᵀ x.
    fn inner_product(&self, system: &System, x: &[f64], transpose: bool) -> Vec<f64> {
        let without = |x: &[f64]| {
            let mut out = system.left_product(x, transpose);
            add_scaled(&mut out, &self.fixed_product(system, x, transpose), 1.0);
            out
        };
        let Some(flow) = &system.flow else {
            return without(x);
        };
        let mut out = if transpose {
            let mut through = x.to_vec();
            flow.through(&mut through, system.n_lm, 1);
            without(&through)
        } else {
            let mut out = without(x);
            flow.through(&mut out, system.n_lm, 1);
            out
        };
        flow.keep(x, system.n_lm, transpose, &mut out);
        out
    }

    /// R M x, or Mᵀ Rᵀ x.
    fn fixed_product(&self, system: &System, x: &[f64], transpose: bool) -> Vec<f64> {
        if x.is_empty() {
            return Vec::new();
        }
        let matrix = self.matrix(system);
        if transpose {
            let g = system.right_transpose(x);
            match matrix {
                Some(matrix) => multiply_transpose(matrix, x.len(), &g),
                None => self
                    .operator
                    .apply_transpose(&self.geometry, system.index, &g),
            }
        } else {
            let v = match matrix {
                Some(matrix) => multiply(matrix, x),
                None => self.operator.apply(&self.geometry, system.index, x),
            };
            system.right_product(&v)
        }
    }

    /// M by rows, for systems solved with the matrix.
    fn matrix(&self, system: &System) -> Option<&[f64]> {
        if !system.dense {
            return None;
        }
        self.operator.matrix(&self.geometry, system.index).ok()
    }

    /// True if L + M has a Cholesky decomposition.
    fn has_minimum(&self, system: &System) -> bool {
        self.matrix(system).is_some_and(|matrix| {
            dense::positive_definite(&system.assemble(matrix), system.constrained)
        })
    }

    /// LU factors of one system, cached.
    fn factors<'a>(&self, system: &'a System) -> Option<&'a Factors> {
        let factors = match system.factors.get() {
            Some(factors) => factors,
            None => {
                // Outside the lock: a thread that waits inside the pool may take up work that waits for this one.
                let matrix = self.matrix(system)?;
                let factors = Factors::new(system.assemble(matrix));
                system.factors.get_or_init(|| factors)
            }
        };
        factors.as_ref().ok()
    }

    fn eigenpair(&self, system: &System, vectors: bool) -> Result<Eigenpair> {
        let apply = |x: &[f64], transpose: bool| {
            let mut out = self.fixed_product(system, x, transpose);
            for value in &mut out {
                *value = -*value;
            }
            out
        };
        eigen::dominant(system.n(), apply, vectors)
    }
}

/// Flow of each system.
fn flows(edges: &Edges, members: &Members) -> Result<Vec<Flow>> {
    let n_atoms = edges.placement.len();
    check_entries("conductance", edges.conductance, &[edges.ends.len()])?;
    let mut place = vec![(0, 0); n_atoms]; // system and number in it
    for system in 0..members.n_systems() {
        for (number, &atom) in members.of(system).iter().enumerate() {
            place[atom] = (system, number);
        }
    }
    let mut found: Vec<_> = (0..members.n_systems())
        .map(|system| vec![Vec::new(); members.of(system).len()])
        .collect();
    for (index, (&[i, j], &conductance)) in edges.ends.iter().zip(edges.conductance).enumerate() {
        let value_error = |array, value, remedy| Error::Value {
            array,
            index,
            value,
            remedy,
        };
        let inside = |atom: i64| (0..n_atoms as i64).contains(&atom);
        if !inside(i) || !inside(j) {
            let value = if inside(i) { j } else { i } as f64;
            return Err(value_error(
                "edges",
                value,
                "an edge joins atoms 0 .. n_atoms - 1",
            ));
        }
        if conductance < 0.0 {
            return Err(value_error(
                "conductance",
                conductance,
                "give conductances that are not negative",
            ));
        }
        let (first, second) = (place[i as usize], place[j as usize]);
        if first.0 != second.0 {
            return Err(value_error(
                "edges",
                j as f64,
                "an edge joins atoms of one system",
            ));
        }
        if i != j {
            found[first.0][first.1].push((second.1, conductance));
            found[first.0][second.1].push((first.1, conductance));
        }
    }
    let placement = |system| members.gather(system, edges.placement, 1);
    let found = found.into_iter().enumerate();
    Ok(found
        .map(|(system, edges)| Flow::new(edges, placement(system)))
        .collect())
}

/// True if every block is symmetric.
fn symmetric(left: &[f64], n: usize) -> bool {
    left.chunks_exact((n * n).max(1))
        .all(|block| (0..n).all(|a| (0..a).all(|b| block[a * n + b] == block[b * n + a])))
}

/// Error for tolerances that are no relative residual.
fn check_tolerance(tolerance: f64) -> Result<()> {
    if tolerance > 0.0 && tolerance < 1.0 {
        return Ok(());
    }
    Err(Error::Value {
        array: "tolerance",
        index: 0,
        value: tolerance,
        remedy: "give a relative residual between 0 and 1, such as 1e-12",
    })
}
