//! `subresources.kubevirt.io`: what `virtctl` asks, as an aggregated API behind the API server.
//!
//! ```text
//!   API server ──> front proxy's headers ──> authorize (SubjectAccessReview) ──┬─> lifecycle   a VirtualMachine's writes
//!                                                                              ├─> machine     calls on the machine, over exec
//!   endpoints  the one table: routes, discovery, openapi                       ├─> agent       what the guest's agent says
//!   refusal    errors as Kubernetes' Status                                    ├─> graph       which objects it stands on
//!                                                                              └─> streams     console, port-forward, vsock
//! ```
//!
//! Every call has an entry in [`endpoints`]: one that isn't built yet is refused by name, with a reason. Whoever asks is known
//! by the front proxy's word alone, and may do what RBAC says on the subresource; the controller's own rights, with which it
//! then reads and writes, say nothing about that.

mod agent;
mod authorize;
mod discovery;
mod endpoints;
mod evacuate;
mod expand;
mod graph;
mod lifecycle;
mod machine;
mod objects;
mod openapi;
mod options;
mod refusal;
mod streams;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, put};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::events::Events;
use crate::serve::FrontProxy;
use endpoints::{GROUP, Kind, Method, VERSIONS};
pub use refusal::Refusal;

/// Bytes of a body: options, none of which is long; an object is sent to one call alone, which takes more.
const BODY: usize = 64 << 10;

/// What every call works with; clones are the same.
#[derive(Clone)]
pub struct Server {
    context: Context,
    front_proxy: watch::Receiver<Arc<FrontProxy>>,
    events: Events,
    streams: Arc<streams::Streams>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// The aggregated API, until `stop`, with which its streams end.
pub fn router(context: Context, front_proxy: watch::Receiver<Arc<FrontProxy>>, stop: CancellationToken) -> Router {
    let events = Events::new(&context);
    let server = Server { context, front_proxy, events, streams: Arc::new(streams::Streams::new(stop)) };
    let mut router = Router::new();
    for version in VERSIONS {
        let base = format!("/apis/{GROUP}/{version}");
        router = router.merge(protected(&base, &server)).merge(discovery::router(&base, version));
    }
    router.merge(discovery::root()).layer(DefaultBodyLimit::max(BODY)).with_state(server)
}

/// What somebody has to have a right to.
fn protected(base: &str, server: &Server) -> Router<Server> {
    let machines = format!("{base}/namespaces/{{namespace}}/virtualmachines/{{name}}");
    let instances = format!("{base}/namespaces/{{namespace}}/virtualmachineinstances/{{name}}");
    let mut router = Router::new()
        .route(
            &format!("{base}/namespaces/{{namespace}}/expand-vm-spec"),
            put(expand::sent).layer(DefaultBodyLimit::max(expand::OBJECT)),
        )
        .route(&format!("{machines}/expand-spec"), get(expand::stored))
        .route(&format!("{machines}/objectgraph"), get(graph::of_machine))
        .route(&format!("{machines}/start"), put(lifecycle::start))
        .route(&format!("{machines}/stop"), put(lifecycle::stop))
        .route(&format!("{machines}/restart"), put(lifecycle::restart))
        .route(&format!("{machines}/evacuate/cancel"), put(evacuate::cancel_of_machine))
        .route(&format!("{machines}/portforward/{{port}}"), get(streams::port_of_machine))
        .route(&format!("{machines}/portforward/{{port}}/{{protocol}}"), get(streams::port_of_machine))
        .route(&format!("{instances}/pause"), put(machine::pause))
        .route(&format!("{instances}/unpause"), put(machine::unpause))
        .route(&format!("{instances}/freeze"), put(machine::freeze))
        .route(&format!("{instances}/unfreeze"), put(machine::unfreeze))
        .route(&format!("{instances}/softreboot"), put(machine::soft_reboot))
        .route(&format!("{instances}/reset"), put(machine::reset))
        .route(&format!("{instances}/evacuate/cancel"), put(evacuate::cancel))
        .route(&format!("{instances}/guestosinfo"), get(agent::guest_os_info))
        .route(&format!("{instances}/userlist"), get(agent::users))
        .route(&format!("{instances}/filesystemlist"), get(agent::file_systems))
        .route(&format!("{instances}/objectgraph"), get(graph::of_instance))
        .route(&format!("{instances}/console"), get(streams::console))
        .route(&format!("{instances}/vsock"), get(streams::vsock))
        .route(&format!("{instances}/portforward/{{port}}"), get(streams::port))
        .route(&format!("{instances}/portforward/{{port}}/{{protocol}}"), get(streams::port));
    for endpoint in endpoints::ENDPOINTS {
        let Some(reason) = endpoint.missing else { continue };
        let path = match endpoint.kind {
            Kind::Machine => format!("{machines}/{}", endpoint.name),
            Kind::Instance => format!("{instances}/{}", endpoint.name),
            Kind::Namespace => format!("{base}/namespaces/{{namespace}}/{}", endpoint.name),
        };
        let answer = move || std::future::ready(Refusal::not_built(endpoint.name, reason));
        router = match endpoint.method {
            Method::Get => router.route(&path, get(answer)),
            Method::Put => router.route(&path, put(answer)),
        };
    }
    router.route_layer(axum::middleware::from_fn_with_state(server.clone(), authorize::authorize))
}
