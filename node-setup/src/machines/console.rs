//! A machine's console on this terminal.

use std::io::{Read as _, Write as _, stdin, stdout};

use anyhow::{Context as _, Result};
use futures_util::stream::unfold;
use tokio::sync::mpsc;
use vireo_runtimeclass::machine_service::v1::{self, console_request::Input};

use super::client::Client;
use super::{answered, said};
use crate::terminal::{LEAVE, Terminal};

/// Pieces of what is typed that may wait.
const WAITING: usize = 16;

/// Joins console and terminal until the machine ends or the user leaves.
pub(super) async fn console(mut client: Client) -> Result<()> {
    let terminal = Terminal::take()?;
    let (keys, typed) = mpsc::channel(WAITING);
    if let Some((columns, rows)) = Terminal::size() {
        let size = v1::ConsoleSize { columns: columns.into(), rows: rows.into() };
        keys.try_send(Input::Size(size)).context("console")?;
    }
    let (leave, left) = tokio::sync::oneshot::channel();
    let raw = terminal.is_raw();
    // Reading a terminal blocks, so that it has a thread, which ends with the process at the latest.
    std::thread::spawn(move || read_keys(raw, &keys, leave));
    let requests = unfold(typed, |mut typed| async move {
        let input = typed.recv().await?;
        Some((v1::ConsoleRequest { input: Some(input) }, typed))
    });
    let mut output = answered(client.console(requests).await)?;
    let mut left = Some(left);
    loop {
        let gone = async {
            match left.as_mut() {
                Some(left) => left.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            piece = output.message() => {
                let Some(piece) = piece.map_err(said)? else { return Ok(()) };
                let mut stdout = stdout().lock();
                stdout.write_all(&piece.output).and_then(|()| stdout.flush()).context("standard output")?;
            }
            gone = gone => match gone {
                Ok(()) => return Ok(()),
                // Input has ended; output goes on.
                Err(_) => left = None,
            },
        }
    }
}

/// Reads standard input to its end, or to [`LEAVE`], which only means that on a terminal.
fn read_keys(raw: bool, keys: &mpsc::Sender<Input>, leave: tokio::sync::oneshot::Sender<()>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stdin().read(&mut buffer) {
        let typed = &buffer[..count];
        let end = if raw { typed.iter().position(|key| *key == LEAVE) } else { None };
        let typed = &typed[..end.unwrap_or(count)];
        if !typed.is_empty() && keys.blocking_send(Input::Typed(typed.to_vec())).is_err() {
            return;
        }
        if end.is_some() {
            let _ = leave.send(());
            return;
        }
    }
}
