//! How many nodes the registry takes in, updates and reads in a second, at 10,000 nodes: with 24 realistic drives
//! each, and with none (the number that older registries quote).
//!
//! `cargo bench --bench node_registry`

#![allow(missing_docs, reason = "criterion_group! makes public items")]
#![allow(
    clippy::indexing_slicing,
    reason = "a bench may stop loudly; every index is taken modulo the length"
)]

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use smart_storage_benches::{drive, node, node_name};
use smart_storage_core::{
    drive::Observed,
    node::{DriveRecord, NodeRecord},
    registry::Registry,
};

const NODES: usize = 10_000;
const DRIVES: usize = 24;

/// A node's next record after one drive changed: what a delta makes. The other drives are shared.
fn with_changed_drive(old: &NodeRecord, index: usize, degrees: u32) -> NodeRecord {
    let mut record = old.clone();
    record.session.sequence += 1;
    if let Some(slot) = record.drives.get_mut(index) {
        let mut changed = DriveRecord::clone(slot);
        changed.facts.health.temperature_celsius = Observed::Known(degrees);
        *slot = Arc::new(changed);
    }
    record
}

/// The fleet, each node's drives shared with what the bench keeps, as a stream's session keeps them.
fn fleet(drives: usize) -> (Registry, Vec<Arc<NodeRecord>>) {
    let registry = Registry::new();
    let records: Vec<Arc<NodeRecord>> = (0..NODES).map(|index| Arc::new(node(index, drives))).collect();
    for record in &records {
        registry.apply_shared(Arc::clone(record));
    }
    (registry, records)
}

fn registry(c: &mut Criterion, name: &str, drives: usize) {
    let (full, records) = fleet(drives);
    let mut group = c.benchmark_group(format!("registry/{name}"));
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);

    group.throughput(Throughput::Elements(NODES as u64));
    group.bench_function("register", |b| {
        b.iter_batched(
            || (Registry::new(), records.clone()),
            |(registry, records)| {
                for record in records {
                    black_box(registry.apply_shared(record));
                }
                registry
            },
            BatchSize::PerIteration,
        );
    });

    group.throughput(Throughput::Elements(1));
    let mut next = 0_usize;
    group.bench_function("update_one_drive", |b| {
        b.iter(|| {
            next += 1;
            let name = &records[next % NODES].name;
            let degrees = u32::try_from(30 + next / NODES % 40).unwrap_or(30);
            black_box(full.update(name, |old| {
                old.map(|old| with_changed_drive(old, next % DRIVES, degrees))
            }))
        });
    });
    // A snapshot that says what is known already, freshly parsed: nothing is shared, everything is compared.
    let same: Vec<NodeRecord> = (0..64).map(|index| node(NODES + index, drives)).collect();
    for record in &same {
        full.apply(record.clone());
    }
    let mut again: Vec<Arc<NodeRecord>> = (0..64)
        .map(|index| Arc::new(node(NODES + index, drives)))
        .collect();
    group.bench_function("snapshot_unchanged", |b| {
        b.iter(|| {
            next += 1;
            let index = next % again.len();
            black_box(full.apply_shared(Arc::clone(&again[index])))
        });
    });
    again.clear();
    group.bench_function("get", |b| {
        b.iter(|| {
            next += 7;
            black_box(full.get(records[next % NODES].name.as_str()))
        });
    });
    group.bench_function("totals", |b| b.iter(|| black_box(full.totals())));
    group.finish();
}

fn with_drives(c: &mut Criterion) {
    registry(c, "24_drives", DRIVES);
}

fn empty_status(c: &mut Criterion) {
    registry(c, "empty_status", 0);
}

/// What it costs to build one drive's record, to set the others in proportion.
fn parse(c: &mut Criterion) {
    c.bench_function("registry/build_drive_record", |b| {
        b.iter(|| black_box((drive(7, 3), node_name(7))))
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().without_plots().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = with_drives, empty_status, parse
}
criterion_main!(benches);
