//! Compiled modules on disk.

use std::path::{Path, PathBuf};

/// `$ELECTRET_CACHE`, else `electret` in the user's cache folder; none where there is no home.
pub fn directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("ELECTRET_CACHE") {
        return Some(path.into());
    }
    if let Some(path) = set("XDG_CACHE_HOME") {
        return Some(Path::new(&path).join("electret"));
    }
    set("HOME").map(|home| Path::new(&home).join(".cache").join("electret"))
}

/// The contents of a file in the cache.
pub fn read(file: &str) -> Option<Vec<u8>> {
    std::fs::read(directory()?.join(file))
        .ok()
        .filter(|bytes| !bytes.is_empty())
}

/// Puts a file into the cache, whole or not at all; a cache that cannot be written to is no error.
pub fn write(file: &str, bytes: &[u8]) {
    let Some(directory) = directory() else { return };
    if std::fs::create_dir_all(&directory).is_err() {
        return;
    }
    let part = directory.join(format!("{file}.{}", std::process::id()));
    if std::fs::write(&part, bytes).is_ok() && std::fs::rename(&part, directory.join(file)).is_err()
    {
        let _ = std::fs::remove_file(&part);
    }
}
