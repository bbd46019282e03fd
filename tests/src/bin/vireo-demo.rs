//! The demo: a virtual node, a VM pod in it, and what that cost; then a cluster, Vireo deployed there by its operator, and a
//! VirtualMachine from `kubectl apply` to its end.
#![forbid(unsafe_code)]

use std::{fs, io::Write as _, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vireo_tests::{
    cluster,
    node::{Node, Options, Record, Request, Stream, share::Build},
    scenarios::demo::{MARK, Summary},
};

/// Boots a virtual node and runs a VM pod in it; then a cluster, with a VirtualMachine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave the node up.
    #[arg(long)]
    keep: bool,
    /// The node's containerd: 1.6, 1.7 or 2.1.
    #[arg(long, default_value = "1.7")]
    containerd: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    if arguments.keep
        && let Some(record) = Record::load()?
    {
        println!("==> ending the node of an earlier demo");
        record.stop()?;
    }
    let options = Options { keep: arguments.keep, ..Options::prepare("demo", Build::Release, false)? };
    let mut node = Node::boot(&options)?;
    let mut shown = in_node(&node, &arguments.containerd);
    if !matches!(shown, Ok((0, _))) {
        println!("\nan emulated node may be at fault (tests/README.md says how): once more, in a fresh one");
        drop(node);
        node = Node::boot(&options)?;
        shown = in_node(&node, &arguments.containerd);
    }
    let (code, summary) = shown?;
    let logs = node.folder().display().to_string();
    if arguments.keep {
        node.into_kept()?;
        println!("\nthe node stays up; its logs: {logs}");
        for action in ["shell", "exec COMMAND", "stop"] {
            println!("    {} {action}", std::env::current_exe()?.with_file_name("vireo-node").display());
        }
    }
    ensure!(code == 0, "the demo failed in the node with {code}; the node's logs: {logs}");
    let text = summary.context("the demo gave no summary")?;
    let summary: Summary = serde_json::from_str(&text)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/demo.json");
    fs::write(&path, serde_json::to_string_pretty(&summary)? + "\n").context("write target/demo.json")?;
    println!("\nthe demo took {:.0} s; summary in target/demo.json", begin.elapsed().as_secs_f64());
    ensure!(summary.leaks.is_empty(), "the pod left {} things behind", summary.leaks.len());
    if arguments.keep {
        return Ok(());
    }
    println!("\na cluster: Kubernetes' own programs here, its node a virtual one");
    cluster::demo()
}

/// The demo's part in the node: its exit code and its summary.
fn in_node(node: &Node, containerd: &str) -> Result<(i32, Option<String>)> {
    let mut rest = Vec::new();
    let mut summary = None;
    let command = ["/vireo/bin/vireo-scenarios", "demo", "--containerd", containerd];
    let code = node.agent().run(Request::new(command), |stream, bytes| match stream {
        Stream::Output => {
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                match line.strip_prefix(MARK) {
                    Some(text) => summary = Some(text.to_owned()),
                    None => print!("{line}"),
                }
            }
        }
        Stream::Error => drop(std::io::stderr().write_all(bytes)),
    })?;
    Ok((code, summary))
}
