//! Sources of the kernels, with the definitions and headers that they are compiled with.

use crate::units::COULOMB_CONSTANT;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

macro_rules! headers {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../../cuda/", $name)))),*] };
}

/// Every file that a kernel file may include.
pub const HEADERS: &[(&str, &str)] = headers![
    "host.cuh",
    "scalar.cuh",
    "reduce.cuh",
    "harmonics.cuh",
    "batch.cuh",
    "reciprocal.cuh",
    "mesh.cuh",
    "lattice.cuh",
    "coulomb_kernel.cuh",
    "scan.cuh",
    "bins.cuh",
    "rounded.cuh",
    "real_sources.cuh",
    "boys.cuh",
    "radial.cuh",
    "charges_dipoles.cuh",
    "multipoles.cuh",
    "site_terms.cuh",
    "own.cuh",
    "background.cuh",
    "corrections.cuh",
];

/// Makes a header.
type Generator = Arc<dyn Fn() -> String + Send + Sync>;

/// One module to compile: a file with its definitions, and headers generated for it.
#[derive(Clone)]
pub struct Unit {
    /// Name in messages.
    pub name: &'static str,
    pub code: &'static str,
    /// Macros, `("SCALAR", "double")`.
    pub definitions: Vec<(&'static str, String)>,
    /// Headers made for this module from its definitions when it is compiled, by the name that the file includes.
    generated: Vec<(&'static str, Generator)>,
    /// Structures that Rust lays out or allocates, and their sizes in bytes.
    sizes: Vec<(&'static str, usize)>,
}

/// Within one process the name and the definitions identify a module.
impl PartialEq for Unit {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.definitions == other.definitions
    }
}

impl Eq for Unit {}

impl Hash for Unit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.definitions.hash(state);
    }
}

impl Unit {
    pub fn new(name: &'static str, code: &'static str) -> Self {
        Self {
            name,
            code,
            definitions: Vec::new(),
            generated: Vec::new(),
            sizes: Vec::new(),
        }
    }

    pub fn define(mut self, macro_: &'static str, value: impl ToString) -> Self {
        self.definitions.push((macro_, value.to_string()));
        self
    }

    pub fn generate(
        mut self,
        header: &'static str,
        make: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        self.generated.push((header, Arc::new(make)));
        self
    }

    /// The compiler asserts that structure `name` is as large as `M`, which mirrors it.
    pub fn mirror<M>(self, name: &'static str) -> Self {
        self.size(name, size_of::<M>())
    }

    /// The compiler asserts that structure `name` takes `bytes` bytes.
    pub fn size(mut self, name: &'static str, bytes: usize) -> Self {
        self.sizes.push((name, bytes));
        self
    }

    /// The file with its definitions and Coulomb's constant in front, and the assertions on sizes at the end.
    pub fn unit(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.definitions {
            let _ = writeln!(out, "#define {name} {value}");
        }
        let _ = writeln!(out, "#define COULOMB_CONSTANT {COULOMB_CONSTANT:?}");
        let _ = writeln!(out, "#line 1 \"{}\"", self.name);
        out.push_str(self.code);
        for (name, bytes) in &self.sizes {
            let _ = writeln!(
                out,
                "static_assert(sizeof({name}) == {bytes}, \"{name}: another size in Rust\");"
            );
        }
        out
    }

    /// All headers: the project's and the generated ones.
    pub fn headers(&self) -> Vec<(&'static str, Cow<'static, str>)> {
        let own = self
            .generated
            .iter()
            .map(|(name, make)| (*name, make().into()));
        HEADERS
            .iter()
            .map(|&(name, text)| (name, text.into()))
            .chain(own)
            .collect()
    }

    /// Name of the compiled module: a hash of text, compiler and options.
    pub fn key(&self, compiler: &str) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(compiler);
        add(&self.unit());
        for (name, text) in self.headers() {
            add(name);
            add(&text);
        }
        let digest = hash.finalize();
        let mut out = format!("{}-", self.name.trim_end_matches(".cu"));
        for byte in &digest[..16] {
            let _ = write!(out, "{byte:02x}");
        }
        out
    }
}
