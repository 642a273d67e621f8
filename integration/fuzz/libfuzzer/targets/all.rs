//! Every target under libFuzzer; `FUZZ_TARGET` names the one to run.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use smart_storage_fuzz::{Target, run, targets};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let all = targets::all();
    let names: Vec<&str> = all.iter().map(|target| target.name).collect();
    let chosen = all.iter().find(|target| target.name == name);
    *chosen.unwrap_or_else(|| panic!("FUZZ_TARGET is one of {}", names.join(", ")))
});

fuzz_target!(|data: &[u8]| {
    if let Err(what) = run::attempt(&TARGET, data) {
        panic!("{what}");
    }
});
