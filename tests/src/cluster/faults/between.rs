//! What stands between a controller and the API server, and knows each of its writes.
//!
//! A write that is about an object (its name or uid is in the path or the body) can be held before it reaches the API server, or have its
//! answer withheld; whatever else is written about that object is held from then on. A controller that is killed then was killed there,
//! for each of many objects at once. What is held can be let through later, as a packet that was long under way.
//!
//! Watches can be made deaf, and then end as expired (410): what happened meanwhile is known only to who lists anew.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::cluster::Scope;

/// Bytes of a request's body: a controller's are small.
const BODY: usize = 4 << 20;
/// What an API server says that has forgotten what a watch asks for.
const EXPIRED: &str = concat!(
    r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
    r#""message":"too old resource version","reason":"Expired","code":410}}"#,
    "\n"
);

/// Where an object's writes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// So many are done, the next one doesn't reach the API server.
    Before(usize),
    /// So many are done, of the last of which no answer comes back.
    After(usize),
}

/// What stands between; it ends with this.
#[derive(Debug)]
pub(super) struct Between {
    shared: Arc<Shared>,
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

struct Shared {
    /// The API server, asked in the controller's name.
    client: Client,
    book: Mutex<Book>,
    /// Whether what is held goes through now.
    released: watch::Sender<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("book", &self.book).finish_non_exhaustive()
    }
}

/// What is known of the writes.
#[derive(Debug, Default)]
struct Book {
    /// Method and path of each.
    writes: Vec<String>,
    objects: Vec<Object>,
    watches: Watches,
}

/// An object whose writes are counted.
#[derive(Debug)]
struct Object {
    /// Its name and uid.
    marks: Vec<String>,
    cut: Option<Cut>,
    /// Writes that were let through.
    done: usize,
    is_cut: bool,
}

#[derive(Debug, Clone, Default)]
struct Watches {
    deaf: CancellationToken,
    expired: CancellationToken,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Through,
    Held,
    Unanswered,
}

impl Book {
    /// A write: what becomes of it.
    fn enter(&mut self, parts: &Parts, body: &[u8]) -> Fate {
        let path = parts.uri.path();
        self.writes.push(format!("{} {path}", parts.method));
        let body = String::from_utf8_lossy(body);
        let is_about =
            |object: &&mut Object| object.marks.iter().any(|mark| path.contains(mark) || body.contains(mark));
        let Some(object) = self.objects.iter_mut().find(is_about) else { return Fate::Through };
        if object.is_cut {
            return Fate::Held;
        }
        match object.cut {
            Some(Cut::Before(done)) if done == object.done => {
                object.is_cut = true;
                Fate::Held
            }
            Some(Cut::After(done)) if done == object.done + 1 => {
                object.done += 1;
                object.is_cut = true;
                Fate::Unanswered
            }
            _ => {
                object.done += 1;
                Fate::Through
            }
        }
    }
}

impl Between {
    /// A way to the API server; controllers find it at [`Self::server`].
    pub(super) async fn start(scope: &Scope) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(scope.suite().plane().lock().await.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // Whoever asks says who it is.
        config.auth_info = kube::config::AuthInfo::default();
        config.default_retry = false;
        let shared = Arc::new(Shared {
            client: Client::try_from(config)?,
            book: Mutex::default(),
            released: watch::Sender::new(false),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self { shared, address, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Where controllers find it.
    pub(super) fn server(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Counts, from now on, writes about the object that `marks` name, and cuts them off.
    pub(super) fn count(&self, marks: &[&str], cut: Option<Cut>) {
        let marks = marks.iter().map(|mark| (*mark).to_owned()).collect();
        self.shared.book().objects.push(Object { marks, cut, done: 0, is_cut: false });
    }

    /// Writes about an object that were let through, and whether it is cut off.
    pub(super) fn counted(&self, mark: &str) -> (usize, bool) {
        let book = self.shared.book();
        let object = book.objects.iter().find(|object| object.marks.iter().any(|own| own == mark));
        object.map_or((0, false), |object| (object.done, object.is_cut))
    }

    /// Every write that came, as `PATCH /path`; with those that are held.
    pub(super) fn writes(&self) -> Vec<String> {
        self.shared.book().writes.clone()
    }

    /// Lets through what is held.
    pub(super) fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// What is held from now on is held again.
    pub(super) fn hold_again(&self) {
        self.shared.released.send_replace(false);
    }

    /// Watches hear nothing from now on.
    pub(super) fn deafen(&self) {
        self.shared.book().watches.deaf.cancel();
    }

    /// Watches, which were deaf, are told that they are too old.
    pub(super) fn expire(&self) {
        let watches = std::mem::take(&mut self.shared.book().watches);
        watches.deaf.cancel();
        watches.expired.cancel();
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what was held goes through: never, where nobody is there any more to say so.
    async fn is_released(&self) -> bool {
        self.released.subscribe().wait_for(|released| *released).await.is_ok()
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if request.headers().contains_key(header::UPGRADE) {
        return (StatusCode::NOT_IMPLEMENTED, "streams don't get through here").into_response();
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    // Reviews change nothing, and events are told beside the work.
    let of_others = ["/authorization.k8s.io/", "/events"].iter().any(|part| parts.uri.path().contains(part));
    let is_write = parts.method != Method::GET && !of_others;
    let fate = if is_write { shared.book().enter(&parts, &body) } else { Fate::Through };
    if fate == Fate::Held && !shared.is_released().await {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let is_watch = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
    let answer = shared.client.send(Request::from_parts(parts, kube::client::Body::from(body.to_vec()))).await;
    if fate == Fate::Unanswered && !shared.is_released().await {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match answer {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let body = Body::new(body);
            Response::from_parts(head, if is_watch { overheard(body, shared.book().watches.clone()) } else { body })
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// A watch's stream, until it is deaf, and then until it is too old. It stops between two events.
fn overheard(body: Body, watches: Watches) -> Body {
    let events = body.into_data_stream();
    Body::from_stream(stream::unfold(Some((events, true)), move |state| {
        let Watches { deaf, expired } = watches.clone();
        async move {
            let (mut events, is_whole) = state?;
            let piece = tokio::select! {
                biased;
                () = deaf.cancelled(), if is_whole => {
                    expired.cancelled().await;
                    return Some((Ok(Bytes::from_static(EXPIRED.as_bytes())), None));
                }
                piece = events.next() => piece?,
            };
            let is_whole = piece.as_ref().is_ok_and(|piece| piece.ends_with(b"\n"));
            Some((piece, Some((events, is_whole))))
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(book: &mut Book, path: &str, body: &str) -> Fate {
        let request = axum::http::Request::builder().method(Method::POST).uri(path).body(()).unwrap();
        book.enter(&request.into_parts().0, body.as_bytes())
    }

    #[test]
    fn each_object_is_cut_off_where_it_says() {
        let object = |mark: &str, cut| Object { marks: vec![mark.to_owned()], cut, done: 0, is_cut: false };
        let mut book = Book {
            objects: vec![
                object("none", None),
                object("one", Some(Cut::Before(1))),
                object("two", Some(Cut::After(2))),
                object("at-once", Some(Cut::Before(0))),
            ],
            ..Book::default()
        };
        for (path, body, fate) in [
            ("/pods", "none", Fate::Through),
            ("/pods/one", "", Fate::Through),
            ("/pods", "one", Fate::Held),
            ("/pods", "two", Fate::Through),
            ("/pods/two/status", "", Fate::Unanswered),
            ("/pods/two", "", Fate::Held),
            ("/pods/one", "", Fate::Held),
            ("/pods", "at-once", Fate::Held),
            ("/leases/other", "", Fate::Through),
            ("/pods", "none", Fate::Through),
        ] {
            assert_eq!(enter(&mut book, path, body), fate, "{path} {body}");
        }
        assert_eq!(book.writes.len(), 10);
        let counted: Vec<_> = book.objects.iter().map(|object| (object.done, object.is_cut)).collect();
        assert_eq!(counted, [(2, false), (1, true), (2, true), (0, true)]);
    }
}
