//! What every peer program does alike, so that only the engine differs: the same arguments in, timed runs of a closure,
//! resident memory at three moments, one JSON line out. Bytes and milliseconds.

use std::time::Instant;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub struct Job {
    pub file: String,
    pub ids: Vec<i64>,
    warmup: usize,
    runs: usize,
    output: Option<String>,
}

impl Job {
    /// `PROGRAM FILE --ids 2,17,3 --warmup N --runs N [--output RAW.f32]`
    pub fn from_args() -> Result<Job, Failure> {
        let mut words = std::env::args().skip(1);
        let file = words.next().ok_or("a model FILE is needed")?;
        let mut job = Job { file, ids: Vec::new(), warmup: 3, runs: 10, output: None };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--ids" => job.ids = value.split(',').map(|id| id.parse()).collect::<Result<_, _>>()?,
                "--warmup" => job.warmup = value.parse()?,
                "--runs" => job.runs = value.parse()?,
                "--output" => job.output = Some(value),
                _ => return Err(format!("no option {word}").into()),
            }
        }
        if job.ids.is_empty() {
            return Err("--ids is needed".into());
        }
        Ok(job)
    }

    /// Loads with `load`, times `run` on what it returns, and prints the result line. `run` gives the first output.
    pub fn measure<M>(
        &self,
        peer: &str,
        version: &str,
        load: impl FnOnce(&Job) -> Result<M, Failure>,
        mut run: impl FnMut(&mut M, &Job) -> Result<Vec<f32>, Failure>,
    ) -> Result<(), Failure> {
        let baseline = kilobytes("VmRSS:")?;
        let start = Instant::now();
        let mut model = load(self)?;
        let load_ms = milliseconds(start);
        let start = Instant::now();
        let mut output = run(&mut model, self)?;
        let first_ms = milliseconds(start);
        for _ in 0..self.warmup {
            output = run(&mut model, self)?;
        }
        let mut times = Vec::with_capacity(self.runs);
        for _ in 0..self.runs {
            let start = Instant::now();
            output = run(&mut model, self)?;
            times.push(format!("{:.4}", milliseconds(start)));
        }
        if let Some(path) = &self.output {
            std::fs::write(path, output.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        println!(
            "{{\"peer\":\"{peer}\",\"version\":\"{version}\",\"load_ms\":{load_ms:.3},\"first_ms\":{first_ms:.3},\"ms\":[{}],\"baseline_rss\":{baseline},\"rss\":{},\"peak_rss\":{}}}",
            times.join(","),
            kilobytes("VmRSS:")?,
            kilobytes("VmHWM:")?,
        );
        Ok(())
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// A figure of /proc/self/status, in bytes.
fn kilobytes(name: &str) -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(name)).ok_or("no such line in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
