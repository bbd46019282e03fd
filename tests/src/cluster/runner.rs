//! Runs tests and says how each went.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::DeleteParams};
use tokio::{
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::{Scope, Suite, Test, When, catalogue};
use crate::{
    kubernetes::{Programs, enter, node, until},
    layers::Tally,
    node::{Options, share::builds_folder},
    progress,
};

/// What is worth watching.
const DEMO: &str = "the_operator_brings_the_whole_path";
/// How many nodes may be lost: a cluster's is busier than the node layer's, and two of five were.
const LOSSES: u32 = 5;
/// Tests at once: they wait for the most part.
const AT_ONCE: usize = 8;
/// How long one may take, and one with real guests.
const LIMIT: Duration = Duration::from_mins(3);
const NODE_LIMIT: Duration = Duration::from_mins(15);
/// How long its namespace may take to go.
const GONE_WITHIN: Duration = Duration::from_mins(1);

/// The tests' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    catalogue::all().into_iter().map(|test| test.name)
}

/// Runs the tests whose name has `only`, or one of several with commas between, in it.
pub fn run(only: Option<&str>) -> Result<Tally> {
    run_showing(only, false)
}

/// Walks the whole path for somebody who watches.
pub fn demo() -> Result<()> {
    let tally = run_showing(Some(DEMO), true)?;
    ensure!((tally.passed, tally.failed) == (1, 0), "the cluster's part of the demo failed: {tally}");
    Ok(())
}

fn run_showing(only: Option<&str>, shown: bool) -> Result<Tally> {
    let named = |test: &Test| only.is_none_or(|only| only.split(',').any(|part| test.name.contains(part)));
    let tests: Vec<_> = catalogue::all().into_iter().filter(named).collect();
    if tests.is_empty() {
        return Ok(Tally::default());
    }
    let programs = Programs::prepare()?;
    let (mut on_node, others): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.when == When::Node);
    let node = (!on_node.is_empty()).then(|| node::prepare(&programs)).transpose()?;
    let (by_operator, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|test| test.when == When::Operator);
    let mut tally = Tally::default();
    // Webhooks and API services are a cluster's: theirs is another one, which waits for the most part.
    let beside = (!by_operator.is_empty()).then(|| {
        let programs = programs.clone();
        std::thread::spawn(move || on_a_cluster(&programs, by_operator, None, How::default()))
    });
    if !others.is_empty() {
        tally += on_a_cluster(&programs, others, None, How { shown, ..How::default() })?.tally;
    }
    if let Some(beside) = beside {
        tally += beside.join().map_err(|_| anyhow!("the operator's cluster panicked"))??.tally;
    }
    let mut how = How { shown, may_slip: true };
    for _ in 0..=LOSSES {
        if !on_node.is_empty() {
            let outcome = on_a_cluster(&programs, on_node, node.clone(), how)?;
            tally += outcome.tally;
            on_node = outcome.unseen;
            how.may_slip &= !outcome.slipped;
        }
    }
    for test in on_node {
        let why = vec![format!("{} was not seen: its nodes were lost each time", test.name)];
        tally += Tally { failed: 1, why, ..Tally::default() };
    }
    Ok(tally)
}

/// How tests run.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    /// For somebody who watches.
    shown: bool,
    /// A test on a node that fails is tried on a fresh cluster: a guest in an emulated node may die of what else there is (`tests/README.md`).
    may_slip: bool,
}

/// How they went.
#[derive(Debug, Default)]
struct Outcome {
    tally: Tally,
    /// Those that want a fresh cluster: the node was lost, or one of them slipped.
    unseen: Vec<Test>,
    slipped: bool,
}

/// Runs tests on a fresh cluster.
fn on_a_cluster(programs: &Programs, tests: Vec<Test>, node: Option<Options>, how: How) -> Result<Outcome> {
    let by_operator = tests.iter().any(|test| test.when == When::Operator);
    let folder = builds_folder()?.join(if by_operator { "cluster-suite-operator" } else { "cluster-suite" });
    let programs = programs.clone();
    // Its network is a thread's, and children die with the thread that started them.
    let thread = std::thread::spawn(move || {
        enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let suite = if by_operator {
            let start = || runtime.block_on(Suite::start_with_operator(&programs, &folder));
            progress::step("starting a control plane and the operator", start)
        } else {
            let start = || runtime.block_on(Suite::start(&programs, &folder, how.shown));
            progress::step("starting a control plane and the controller", start)
        };
        let all = all(Rc::new(suite?), tests, node, how.may_slip);
        let outcome = runtime.block_on(LocalSet::new().run_until(all));
        if outcome.tally.failed > 0 {
            println!("logs of the cluster's programs: {}", folder.display());
        }
        Ok(outcome)
    });
    thread.join().map_err(|_| anyhow!("the cluster's thread panicked"))?
}

async fn all(suite: Rc<Suite>, tests: Vec<Test>, node: Option<Options>, may_slip: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let tally = &mut outcome.tally;
    if let Some(options) = &node
        && let Err(error) = suite.join_node(options).await
    {
        println!("    no node: {error:#}\n{}", suite.node_s_last_words().await);
        tally.why.push("a node didn't come up".to_owned());
        return Outcome { unseen: tests, ..outcome };
    }
    for (when, at_once) in [(When::Together, AT_ONCE), (When::Alone, 1), (When::Operator, 1), (When::Node, 1)] {
        let tests: Vec<_> = tests.iter().copied().filter(|test| test.when == when).collect();
        let mut verdicts = stream::iter(tests.clone()).map(|test| attempt(&suite, test, may_slip)).buffered(at_once);
        let mut seen = 0;
        while let Some(verdict) = verdicts.next().await {
            let name = tests[seen].name;
            match verdict {
                Verdict::Passed => tally.passed += 1,
                Verdict::Failed => tally.failed += 1,
                Verdict::Slipped => {
                    tally.why.push(format!("{name} was tried twice"));
                    return Outcome { unseen: tests[seen..].to_vec(), slipped: true, ..outcome };
                }
                Verdict::NodeLost => {
                    println!("    node lost\n{}", suite.node_s_last_words().await);
                    tally.why.push(format!("a node was lost under {name}"));
                    return Outcome { unseen: tests[seen..].to_vec(), ..outcome };
                }
            }
            seen += 1;
        }
    }
    outcome
}

/// How a test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// It failed on a node, and may be tried once more.
    Slipped,
    /// An emulated node is as good as its emulator: this says nothing of the test.
    NodeLost,
}

/// Runs a test and prints its verdict.
async fn attempt(suite: &Rc<Suite>, test: Test, may_slip: bool) -> Verdict {
    let begin = Instant::now();
    let namespace = namespace(test.name);
    let is_on_node = test.when == When::Node;
    let mut result = tokio::select! {
        result = body(suite, test, &namespace) => result,
        () = suite.node_lost(), if is_on_node => return Verdict::NodeLost,
    };
    let mut seen = String::new();
    if result.is_err() {
        seen = show(suite, &namespace).await;
    }
    let gone = remove(suite, &namespace).await;
    if result.is_ok() {
        result = gone;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let Err(error) = result else {
        println!("    PASS [{seconds:6.1}s] {}", test.name);
        return Verdict::Passed;
    };
    let (bad, verdict) = if is_on_node && may_slip { ("SLIP", Verdict::Slipped) } else { ("FAIL", Verdict::Failed) };
    println!("    {bad} [{seconds:6.1}s] {}\n{}", test.name, indent(&format!("{error:#}\n{seen}")));
    verdict
}

async fn body(suite: &Rc<Suite>, test: Test, namespace: &str) -> Result<()> {
    let scope = Scope::make(suite, namespace.to_owned()).await?;
    let run = spawn_local((test.run)(scope));
    let stop = run.abort_handle();
    let limit = if test.when == When::Node { NODE_LIMIT } else { LIMIT };
    let Ok(ended) = timeout(limit, run).await else {
        stop.abort();
        bail!("not done within {} s", limit.as_secs());
    };
    ended.map_err(|error| anyhow!("it panicked: {error}"))??;
    suite.check().await
}

/// Of at most 63 letters, as names of namespaces are.
fn namespace(test: &str) -> String {
    let name: String = test.replace('_', "-").chars().take(60).collect();
    format!("t-{}", name.trim_end_matches('-'))
}

/// What there is in a namespace, and what the controller said last.
async fn show(suite: &Suite, namespace: &str) -> String {
    let kinds = "vm,vmi,vmirs,pod,pvc,event";
    let listed = suite.kubectl(&["get", kinds, "--namespace", namespace, "--output", "wide"]).await;
    let logs = format!("{}\n{}", suite.controller_log().await, suite.kubelet_log().await);
    format!("{}\n{logs}", listed.unwrap_or_else(|error| format!("{error:#}")))
}

/// Removes a namespace with all that is in it, whoever has a finalizer there included.
async fn remove(suite: &Suite, namespace: &str) -> Result<()> {
    suite.kubelet().release(namespace).await?;
    let namespaces: Api<Namespace> = Api::all(suite.client().await);
    namespaces.delete(namespace, &DeleteParams::default()).await?;
    let what = format!("the end of namespace {namespace}");
    let gone = async || Ok(namespaces.get_opt(namespace).await?.is_none());
    let Err(error) = until(&what, GONE_WITHIN, gone).await else { return Ok(()) };
    let left = namespaces.get(namespace).await.context("look at a namespace that doesn't go")?;
    Err(error.context(format!("left behind: {:?}", left.status)))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{names, namespace};

    #[test]
    fn each_test_has_a_namespace_of_its_own() {
        let mut all: Vec<_> = names().map(namespace).collect();
        assert!(all.iter().all(|name| name.len() < 63));
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
