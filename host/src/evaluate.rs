//! Runs the device's engine on many inputs, on all cores, and measures how far one model's outputs are from another's.
//! Inputs run one row at a time without padding, so a row's outputs do not depend on its neighbours.

use crate::inputs::Row;
use crate::loss::{Loss, Meter, Outputs};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thimble_device::engine::{Engine, EngineOptions};
use thimble_device::image::Image;
use thimble_shared::graph::Config;

/// Outputs of every row, in order.
pub fn outputs(image: &Arc<Image>, rows: &[Row]) -> Result<Vec<Outputs>> {
    let workers = std::thread::available_parallelism()
        .map_or(1, |n| n.get())
        .clamp(1, rows.len().max(1));
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Outputs)>> {
        let engine = Engine::new(image.clone(), EngineOptions::default())?;
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(row) = rows.get(i) else { return Ok(done) };
            done.push((i, run(&engine, row).with_context(|| format!("input row {}", i + 1))?));
        }
    };
    let mut all = std::thread::scope(|scope| -> Result<Vec<(usize, Outputs)>> {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::with_capacity(rows.len());
        for thread in threads {
            all.extend(
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("an evaluation thread panicked"))??,
            );
        }
        Ok(all)
    })?;
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, outputs)| outputs).collect())
}

/// One row through the engine.
pub fn run(engine: &Engine, row: &Row) -> Result<Outputs> {
    Ok(engine.run(&row.input())?.0.into_iter().collect())
}

/// How far `candidate`'s outputs are from `reference`'s.
pub fn compare(config: &Config, rows: &[Row], reference: &[Outputs], candidate: &[Outputs]) -> Result<Loss> {
    let mut meter = Meter::new(config);
    for (i, ((row, a), b)) in rows.iter().zip(reference).zip(candidate).enumerate() {
        meter
            .add(&row.attention_mask, row.labels.as_deref(), a, b)
            .with_context(|| format!("input row {}", i + 1))?;
    }
    Ok(meter.finish())
}
