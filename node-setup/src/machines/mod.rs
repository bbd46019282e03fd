//! The VM pods of this node: `vireo ps`, `top`, `console` and the others. Each machine's shim answers on a socket of its own.

mod client;
mod console;
mod tables;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use tonic::Status;
use vireo_runtimeclass::machine_service::v1::{self, State};

use client::{Client, find};

/// How long a call may take: a shim gives its VMM and its guest's agent 30 seconds.
const DEADLINE: Duration = Duration::from_secs(40);

/// What can be done to a machine of this node.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the VM pods of this node
    Ps,
    /// Show what the VM pods of this node use, over one second
    Top,
    /// Be on a machine's console, beside those who are already; Ctrl-] leaves
    Console(Machine),
    /// Stop a machine where it is
    Pause(Machine),
    /// Let a paused machine go on
    Resume(Machine),
    /// Ask the guest to reboot: by its agent, or by the power button
    SoftReboot(Machine),
    /// Begin anew, as by a reset button
    Reset(Machine),
    /// Press the power button
    PowerButton(Machine),
    /// Send a non-maskable interrupt
    Nmi(Machine),
    /// Show a machine's states as they change, until it ends
    Events(Machine),
    /// Show what the guest's agent says of the guest
    Guest(Machine),
    /// Flush the guest's file systems and hold what is written to them
    Freeze(Machine),
    /// Undo a freeze
    Thaw(Machine),
}

/// Which machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Machine {
    /// Its pod, as in `name` or `namespace/name`, or the beginning of its container's id
    machine: String,
}

/// Does it.
pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio")?;
    let result = runtime.block_on(act(command));
    // A thread may still wait for a key.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn act(command: &Command) -> Result<()> {
    match command {
        Command::Ps => tables::ps().await,
        Command::Top => tables::top().await,
        Command::Console(which) => console::console(find(&which.machine).await?).await,
        Command::Pause(which) => done(find(&which.machine).await?.pause(ask(v1::PauseRequest {})).await),
        Command::Resume(which) => done(find(&which.machine).await?.resume(ask(v1::ResumeRequest {})).await),
        Command::SoftReboot(which) => {
            done(find(&which.machine).await?.soft_reboot(ask(v1::SoftRebootRequest {})).await)
        }
        Command::Reset(which) => done(find(&which.machine).await?.reset(ask(v1::ResetRequest {})).await),
        Command::PowerButton(which) => {
            done(find(&which.machine).await?.power_button(ask(v1::PowerButtonRequest {})).await)
        }
        Command::Nmi(which) => done(find(&which.machine).await?.nmi(ask(v1::NmiRequest {})).await),
        Command::Events(which) => events(find(&which.machine).await?).await,
        Command::Guest(which) => tables::guest(find(&which.machine).await?).await,
        Command::Freeze(which) => {
            let frozen = answered(find(&which.machine).await?.freeze(ask(v1::FreezeRequest::default())).await)?.frozen;
            println!("{frozen} file systems are frozen");
            Ok(())
        }
        Command::Thaw(which) => {
            let thawed = answered(find(&which.machine).await?.thaw(ask(v1::ThawRequest {})).await)?.thawed;
            println!("{thawed} file systems are thawed");
            Ok(())
        }
    }
}

async fn events(mut client: Client) -> Result<()> {
    let mut events = answered(client.events(v1::EventsRequest {}).await)?;
    while let Some(event) = events.message().await.map_err(said)? {
        match event.reason.as_str() {
            "" => println!("{}", word(event.state())),
            reason => println!("{}: {reason}", word(event.state())),
        }
    }
    Ok(())
}

/// A question with a deadline.
fn ask<T>(question: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(question);
    request.set_timeout(DEADLINE);
    request
}

fn answered<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T> {
    answer.map(tonic::Response::into_inner).map_err(said)
}

fn done<T>(answer: Result<tonic::Response<T>, Status>) -> Result<()> {
    answered(answer).map(drop)
}

/// What a shim said, without gRPC's wrapping.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

fn word(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Ended => "ended",
    }
}
