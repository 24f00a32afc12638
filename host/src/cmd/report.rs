//! `thimble report`: bench reports side by side, as a table, as Markdown, or as one page to open in a browser.

use super::outcome::Outcome;
use crate::boards::report_page;
use crate::boards::reports::{self, Entry};
use crate::fs::atomic;
use crate::render::text::remark;
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use thimble_shared::ANSWER_SCHEMA;

#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Read these bench reports (.json) or the histories that deploy keeps (.jsonl)
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Print Markdown
    #[arg(long, visible_alias = "md", conflicts_with = "json")]
    pub markdown: bool,
    /// Write one self-contained HTML page
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &ReportArgs) -> Result<Outcome> {
    args.html.as_deref().map_or(Ok(()), atomic::can_be_written)?;
    let mut entries: Vec<Entry> = Vec::new();
    for file in &args.files {
        entries.extend(reports::load(file)?);
    }
    if let Some(path) = &args.html {
        atomic::refuse_inputs(path, args.files.iter().map(PathBuf::as_path))?;
        atomic::write_whole(path, report_page::page(&entries).as_bytes())?;
        remark(&format!("wrote {}", path.display()));
    }
    Ok(Outcome::yes(if args.json {
        format!("{:#}\n", json!({"schema": ANSWER_SCHEMA, "reports": entries}))
    } else if args.markdown {
        reports::as_markdown(&entries)
    } else {
        reports::as_table(&entries)
    }))
}
