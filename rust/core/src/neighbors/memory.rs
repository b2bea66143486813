//! Refuses lists that the machine cannot hold, before the kernel ends the process that tries.

use crate::error::{Error, Result};

/// Lists below this size, in bytes, are made without asking.
const UNASKED: usize = 1 << 30;

/// Fails where `pairs` of so many bytes each are more than the memory that is free now.
pub(super) fn check(pairs: usize, bytes_of_a_pair: usize) -> Result<()> {
    let bytes = pairs.saturating_mul(bytes_of_a_pair);
    if bytes > UNASKED && available().is_some_and(|available| bytes > available) {
        return Err(exhausted(pairs));
    }
    Ok(())
}

/// The error of a list that does not fit.
pub(super) fn exhausted(pairs: usize) -> Error {
    Error::Unsupported {
        what: format!("a list of {pairs} pairs does not fit into memory"),
        remedy: "reduce the cutoff, ask for fewer quantities, or for half of the list".into(),
    }
}

/// Bytes that can be had without swapping, where the system tells (Linux).
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_bounds_a_list() {
        assert!(check(1000, 72).is_ok());
        if let Some(available) = available() {
            assert!(available > 0);
            let Err(Error::Unsupported { what, .. }) = check(usize::MAX / 2, 72) else {
                panic!("an endless list was accepted");
            };
            assert!(what.contains("does not fit"));
        }
    }
}
