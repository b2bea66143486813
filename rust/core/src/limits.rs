//! Bounds of a call: its work and memory are estimated first, and refused above a bound.

use crate::error::{Error, Result};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Work and memory of a call or of a part of it, to within a small factor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Seconds of one core.
    pub seconds: f64,
    pub bytes: f64,
}

impl Estimate {
    pub fn new(nanoseconds: f64, bytes: f64) -> Self {
        Self {
            seconds: 1e-9 * nanoseconds,
            bytes,
        }
    }

    /// True if this is within the bounds of a call with so many sites.
    pub fn fits(&self, n_sites: usize) -> bool {
        let [seconds, bytes] = bounds(n_sites);
        self.seconds <= seconds && self.bytes <= bytes
    }

    /// Refuses an estimate above the bounds, or above the memory that is free now.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the estimate and the bounds after `what`.
    pub fn check(&self, n_sites: usize, words: impl FnOnce() -> [String; 2]) -> Result<()> {
        let large = self.bytes > UNASKED;
        let free = if large { available() } else { f64::INFINITY };
        if self.fits(n_sites) && self.bytes <= free {
            return Ok(());
        }
        let [seconds, bytes] = bounds(n_sites);
        let [what, remedy] = words();
        Err(Error::Unsupported {
            what: format!(
                "{what}: about {:.1e} bytes and {:.1e} s, where {n_sites} sites may take {:.1e} bytes and {seconds:.1e} s",
                self.bytes,
                self.seconds,
                bytes.min(free),
            ),
            remedy: format!("{remedy}, or raise the bounds by the variable {VARIABLE}=10"),
        })
    }
}

impl std::ops::AddAssign for Estimate {
    fn add_assign(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.bytes += other.bytes;
    }
}

/// Work and memory of the systems of a batch together.
#[derive(Debug)]
pub struct Budget {
    n_sites: usize,
    spent: Mutex<Estimate>,
}

impl Budget {
    pub fn new(n_sites: usize) -> Self {
        Self {
            n_sites,
            spent: Mutex::default(),
        }
    }

    /// Adds the part of one system, unless it is refused.
    ///
    /// # Errors
    /// As [`Estimate::check`].
    pub fn spend(&self, part: Estimate, words: impl FnOnce() -> [String; 2]) -> Result<()> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = *spent;
        total += part;
        total.check(self.n_sites, words)?;
        *spent = total;
        Ok(())
    }
}

/// A factor on the bounds, from the environment.
const VARIABLE: &str = "ELECTRET_LIMIT_FACTOR";
/// Seconds and bytes of any call, and those added for each site.
const ANY: [f64; 2] = [1.0, 1.0e9];
const EACH: [f64; 2] = [0.025, 1.6e7];
/// Estimates below this are compared with the bounds only, in bytes.
const UNASKED: f64 = 2.5e8;

static FACTOR: LazyLock<f64> = LazyLock::new(|| {
    let factor = std::env::var(VARIABLE).ok();
    let factor = factor.and_then(|factor| factor.parse::<f64>().ok());
    factor.filter(|factor| *factor > 0.0).unwrap_or(1.0)
});
/// Memory of the machine or of what the process may use of it, in bytes.
static MACHINE: LazyLock<f64> =
    LazyLock::new(|| kibibytes("/proc/meminfo", "MemTotal:").unwrap_or(f64::INFINITY));

/// Seconds and bytes that a call with so many sites may take.
pub fn bounds(n_sites: usize) -> [f64; 2] {
    let [seconds, bytes] = std::array::from_fn(|k| *FACTOR * (ANY[k] + EACH[k] * n_sites as f64));
    [seconds, bytes.min(*MACHINE)]
}

/// Bytes available without swapping, where the system reports them (Linux): of the machine, of the control group, and
/// of the address space where that is limited.
fn available() -> f64 {
    let number = |path: &str| -> Option<f64> {
        let text = std::fs::read_to_string(path).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    let group = || {
        let folder = "/sys/fs/cgroup/memory";
        Some(number(&format!("{folder}.max"))? - number(&format!("{folder}.current"))?)
    };
    let space = || {
        let text = std::fs::read_to_string("/proc/self/limits").ok()?;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("Max address space"))?;
        let limit: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(limit - kibibytes("/proc/self/status", "VmSize:")?)
    };
    [
        kibibytes("/proc/meminfo", "MemAvailable:"),
        group(),
        space(),
    ]
    .into_iter()
    .flatten()
    .fold(f64::INFINITY, f64::min)
}

/// The bytes in a line `label number kB`.
fn kibibytes(path: &str, label: &str) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let number: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(number * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: fn() -> [String; 2] = || ["a sum".into(), "use another".into()];

    #[test]
    fn bounds_grow_with_the_sites() {
        let part = Estimate::new(0.8e9, 0.0);
        assert!(part.check(2, WORDS).is_ok());
        let budget = Budget::new(2);
        assert!(budget.spend(part, WORDS).is_ok());
        let Err(Error::Unsupported { what, remedy }) = budget.spend(part, WORDS) else {
            panic!("two parts are above the bound");
        };
        assert!(
            what.contains("a sum: about 0.0e0 bytes and 1.6e0 s"),
            "{what}"
        );
        assert!(remedy.contains("use another, or raise"), "{remedy}");
        assert!(budget.spend(Estimate::new(0.1e9, 0.0), WORDS).is_ok());
        let together = Budget::new(100);
        assert!((0..4).all(|_| together.spend(part, WORDS).is_ok()));
    }

    #[test]
    fn what_is_free_bounds_any_call() {
        let sites = 1 << 40;
        assert!(Estimate::new(0.0, 1e7).check(sites, WORDS).is_ok());
        if available().is_finite() {
            assert!(available() > 0.0 && *MACHINE >= available());
            assert!(Estimate::new(0.0, 1e16).check(sites, WORDS).is_err());
        }
        // NaN is refused.
        assert!(Estimate::new(f64::NAN, 0.0).check(1, WORDS).is_err());
    }
}
