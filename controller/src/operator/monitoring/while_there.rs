//! Watches of kinds that a cluster may not have.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::Condition as _;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tracing::warn;

/// What `events` tell while a kind is there, of which `crd` is the name; each time that it turns out not to be, what `gone` gives.
pub(in crate::operator) fn while_there<T: Send + 'static>(
    client: Client,
    crd: String,
    events: impl Fn() -> BoxStream<'static, T> + Send + 'static,
    gone: impl Fn() -> T + Send + 'static,
) -> BoxStream<'static, T> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let is_there = watch_object(definitions, &crd).default_backoff().filter_map(move |seen| {
        let is_there = seen
            .inspect_err(|error| warn!("can't watch for {crd}: {error}"))
            .map(|definition| is_crd_established().matches_object(definition.as_ref()));
        std::future::ready(is_there.ok())
    });
    joined(is_there.boxed(), events, gone)
}

fn joined<T: Send + 'static>(
    is_there: BoxStream<'static, bool>,
    events: impl Fn() -> BoxStream<'static, T> + Send + 'static,
    gone: impl Fn() -> T + Send + 'static,
) -> BoxStream<'static, T> {
    let state = (is_there, None::<BoxStream<'static, T>>, events, gone);
    stream::unfold(state, |(mut is_there, mut told, events, gone)| async move {
        loop {
            let next = async {
                match &mut told {
                    Some(told) => told.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                there = is_there.next() => match (there?, &told) {
                    (true, None) => told = Some(events()),
                    (true, Some(_)) => {}
                    (false, _) => return Some((gone(), (is_there, None, events, gone))),
                },
                event = next => return Some((event?, (is_there, told, events, gone))),
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_kind_comes_and_goes() {
        let (say, told) = mpsc::unbounded_channel();
        let is_there = stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
        // One event, and then silence.
        let events = || stream::iter(["event"]).chain(stream::pending()).boxed();
        let mut all = joined(is_there.boxed(), events, || "gone");
        for (is_there, expected) in [(false, "gone"), (true, "event"), (false, "gone"), (true, "event")] {
            say.send(is_there).unwrap();
            assert_eq!(all.next().await, Some(expected));
        }
        say.send(true).unwrap();
        drop(say);
        assert_eq!(all.next().await, None, "that it is still there is nothing new");
    }
}
