//! A WebSocket and what is at the other end, joined: each direction by itself, with no more held than one message of each.

use std::fmt::Display;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _, pin_mut};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often a client is asked whether it is there.
const PING: Duration = Duration::from_secs(20);
/// A client that says nothing for so long, or takes nothing, is gone.
const SILENCE: Duration = Duration::from_mins(1);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(5);
/// The longest text of a closing frame, bytes: the whole has to fit in 125.
const MAX_REASON: usize = 120;

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// The client closed it, or is gone.
    Client,
    /// What is at the other end closed it.
    Far,
    /// It failed.
    Failed(String),
    /// Another client took it, or the server ends.
    Taken,
}

/// Joins `socket` with what `from` has to say and `to` takes, until either ends or `taken` is cancelled, which `why` tells.
pub(super) async fn relay<E: Display>(
    socket: WebSocket,
    from: impl Stream<Item = Result<Bytes, E>>,
    to: impl Sink<Bytes, Error = E>,
    taken: &CancellationToken,
    why: &str,
) {
    let (mut outward, mut inward) = socket.split();
    let end = {
        let to_client = async {
            pin_mut!(from);
            let mut ping = interval(PING);
            ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let message = tokio::select! {
                    piece = from.next() => match piece {
                        Some(Ok(piece)) => Message::Binary(piece),
                        Some(Err(error)) => return End::Failed(error.to_string()),
                        None => return End::Far,
                    },
                    _ = ping.tick() => Message::Ping(Bytes::new()),
                };
                if !matches!(timeout(SILENCE, outward.send(message)).await, Ok(Ok(()))) {
                    return End::Client;
                }
            }
        };
        let to_far = async {
            pin_mut!(to);
            loop {
                match timeout(SILENCE, inward.next()).await {
                    Ok(Some(Ok(Message::Binary(piece)))) => {
                        if let Err(error) = to.send(piece).await {
                            return End::Failed(error.to_string());
                        }
                    }
                    // Pings are answered as they are read; texts mean nothing here, as in KubeVirt.
                    Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_)))) => {}
                    Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return End::Client,
                }
            }
        };
        tokio::select! {
            end = to_client => end,
            end = to_far => end,
            () = taken.cancelled() => End::Taken,
        }
    };
    let (code, reason) = match &end {
        End::Client | End::Far => (close_code::NORMAL, ""),
        End::Failed(error) => (close_code::ERROR, error.as_str()),
        End::Taken => (close_code::AWAY, why),
    };
    let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default().to_owned();
    let goodbye = async {
        let frame = CloseFrame { code, reason: reason.into() };
        // One that the client sent is being answered already; reading sends the answer.
        let _ = outward.send(Message::Close(Some(frame))).await;
        // Until the client has seen it: what is closed before may be lost.
        while let Some(Ok(_)) = inward.next().await {}
    };
    let _ = timeout(GOODBYE, goodbye).await;
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{SocketAddr, TcpStream};

    use axum::Router;
    use axum::extract::ws::WebSocketUpgrade;
    use axum::routing::get;
    use futures_util::{sink, stream};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tungstenite::Message as Sent;

    use super::*;

    /// Echoes what it is told, but ends at `bye`, fails at `fail`, and is taken at `take`.
    async fn echo() -> SocketAddr {
        let answer = async |request: WebSocketUpgrade| {
            request.on_upgrade(async |socket| {
                let (sender, receiver) = mpsc::channel::<Bytes>(1);
                let gone = CancellationToken::new();
                let take = gone.clone();
                let from = stream::unfold(receiver, move |mut receiver| {
                    let take = take.clone();
                    async move {
                        let piece = receiver.recv().await?;
                        match &piece[..] {
                            b"bye" => None,
                            b"fail" => Some((Err(io::Error::other("ä".repeat(100))), receiver)),
                            b"take" => {
                                take.cancel();
                                std::future::pending().await
                            }
                            _ => Some((Ok(piece), receiver)),
                        }
                    }
                });
                let to = sink::unfold(sender, async |sender: mpsc::Sender<Bytes>, piece| {
                    sender.send(piece).await.map_err(io::Error::other)?;
                    Ok(sender)
                });
                relay(socket, from, to, &gone, "another client came").await;
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(answer))).await });
        address
    }

    /// What the client hears until the end, after `sent`: texts of messages, then the closing code and text.
    async fn heard(sent: Vec<Sent>) -> (Vec<String>, Option<(u16, String)>) {
        let address = echo().await;
        tokio::task::spawn_blocking(move || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let (mut socket, _) = tungstenite::client(format!("ws://{address}/"), stream).unwrap();
            for message in sent {
                socket.send(message).unwrap();
            }
            let mut texts = Vec::new();
            loop {
                match socket.read() {
                    Ok(Sent::Binary(bytes)) => texts.push(String::from_utf8(bytes.to_vec()).unwrap()),
                    Ok(Sent::Close(frame)) => {
                        let frame = frame.map(|frame| (u16::from(frame.code), frame.reason.to_string()));
                        // The server is told that its goodbye came.
                        let _ = socket.flush();
                        return (texts, frame);
                    }
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn both_ends_hear_of_each_other() {
        let say = |text: &str| Sent::binary(text.as_bytes().to_vec());
        let (texts, end) = heard(vec![say("a"), Sent::text("ignored"), say("b"), say("bye")]).await;
        assert_eq!((texts, end), (vec!["a".to_owned(), "b".to_owned()], Some((1000, String::new()))));
        let (_, end) = heard(vec![say("fail")]).await;
        assert_eq!(end, Some((1011, "ä".repeat(60))));
        let (_, end) = heard(vec![say("take")]).await;
        assert_eq!(end, Some((1001, "another client came".to_owned())));
        let (texts, end) = heard(vec![Sent::Close(None)]).await;
        assert_eq!((texts.len(), end.map(|end| end.0)), (0, None));
    }
}
