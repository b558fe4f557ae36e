//! Benchmarks of the schema registry, the system tables and views: `cargo bench --bench registry`; the same in
//! Chromium is `make bench`, by tests/bench_registry.rs. Without `--bench` (as `cargo test --benches` runs it) it
//! measures so little that it only shows that everything still runs.

mod measure;

fn main() -> kalamdb::error::Result<()> {
    let full = std::env::args().any(|arg| arg == "--bench");
    print!("{}", futures::executor::block_on(measure::report(full))?);
    Ok(())
}
