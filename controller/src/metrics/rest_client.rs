//! Requests to the API server: how many, how they end, how long an answer takes (its head: a watch's body lasts).
//!
//! Labels are as many as there are kinds of requests in this program: of a path no more is told than the kind, and a name in it
//! stands as `{name}`, escaped as KubeVirt's client does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{Method, Request, Response};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{Layer, Service};

use super::sample::{Labels, Total};
use super::{catalogue, counters, histograms};

/// Bounds of the latency, seconds (KubeVirt's).
const BOUNDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// What isn't known.
const NONE: &str = "none";

/// Requests to the API server; clones are the same.
#[derive(Debug, Clone)]
pub struct RestClient {
    latency: Family<Labels<'static>, Histogram, fn() -> Histogram>,
    requests: Family<Labels<'static>, Total>,
}

impl RestClient {
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            latency: histograms(registry, &catalogue::REST_LATENCY, || Histogram::new(BOUNDS)),
            requests: counters(registry, &catalogue::REST_REQUESTS),
        }
    }

    /// Counts what a client asks of `host`.
    pub fn of(&self, host: &str) -> Counts {
        Counts { metrics: self.clone(), host: host.into() }
    }
}

/// A layer of a client that counts its requests.
#[derive(Debug, Clone)]
pub struct Counts {
    metrics: RestClient,
    host: Arc<str>,
}

impl<S> Layer<S> for Counts {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, counts: self.clone() }
    }
}

/// A client whose requests are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    counts: Counts,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (method, asked) = (request.method().clone(), Asked::of(request.method(), request.uri()));
        let (counts, begun) = (self.counts.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map(Response::status);
            let code = code.as_ref().map_or("<error>", |code| code.as_str());
            counts.count(&asked, &method, code, begun.elapsed().as_secs_f64());
            answer
        })
    }
}

impl Counts {
    fn count(&self, asked: &Asked, method: &Method, code: &str, seconds: f64) {
        let Self { metrics, host } = self;
        let labels = Labels::new([
            ("code", code),
            ("method", method.as_str()),
            ("host", host),
            ("resource", asked.resource.as_deref().unwrap_or(NONE)),
            ("verb", asked.verb),
        ]);
        metrics.requests.get_or_create(&labels.owned()).add_one();
        let url = format!("https://{host}{}", asked.path);
        metrics.latency.get_or_create(&Labels::new([("verb", asked.verb), ("url", &url)]).owned()).observe(seconds);
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    resource: Option<String>,
    verb: &'static str,
    /// Without names.
    path: String,
}

impl Asked {
    fn of(method: &Method, uri: &axum::http::Uri) -> Self {
        let parts: Vec<_> = uri.path().split('/').skip(1).collect();
        let (prefix, rest) = match &parts[..] {
            ["api", version, rest @ ..] => (format!("/api/{version}"), rest),
            ["apis", group, version, rest @ ..] => (format!("/apis/{group}/{version}"), rest),
            _ => (String::new(), &[][..]),
        };
        let (place, rest) = match rest {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => ("/namespaces/%7Bnamespace%7D", rest),
            rest => ("", rest),
        };
        let [resource, rest @ ..] = rest else {
            return Self { resource: None, verb: NONE, path: "/%7Bpath%7D".to_owned() };
        };
        let (name, subresource) = match rest {
            [] => ("", String::new()),
            [_] => ("/%7Bname%7D", String::new()),
            [_, subresource @ ..] => ("/%7Bname%7D", format!("/{}", subresource.join("/"))),
        };
        let watches = || uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        let verb = match *method {
            Method::GET if watches() => "WATCH",
            Method::GET if name.is_empty() => "LIST",
            Method::GET => "GET",
            Method::PUT => "UPDATE",
            Method::PATCH => "PATCH",
            Method::POST => "CREATE",
            Method::DELETE => "DELETE",
            _ => NONE,
        };
        Self {
            resource: Some((*resource).to_owned()),
            verb,
            path: format!("{prefix}{place}/{resource}{name}{subresource}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::super::tests::value;
    use super::*;

    fn asked(method: &Method, uri: &str) -> (Option<String>, &'static str, String) {
        let Asked { resource, verb, path } = Asked::of(method, &uri.parse().unwrap());
        (resource, verb, path)
    }

    #[test]
    fn a_request_is_told_by_its_kind() {
        let told = |resource: &str, verb, path: &str| (Some(resource.to_owned()), verb, path.to_owned());
        assert_eq!(asked(&Method::GET, "/api/v1/pods?limit=5"), told("pods", "LIST", "/api/v1/pods"));
        let watch = "/apis/kubevirt.io/v1/virtualmachines?allowWatchBookmarks=true&watch=true";
        assert_eq!(
            asked(&Method::GET, watch),
            told("virtualmachines", "WATCH", "/apis/kubevirt.io/v1/virtualmachines")
        );
        let status = "/apis/kubevirt.io/v1/namespaces/shop/virtualmachines/web/status";
        let path = "/apis/kubevirt.io/v1/namespaces/%7Bnamespace%7D/virtualmachines/%7Bname%7D/status";
        assert_eq!(asked(&Method::PATCH, status), told("virtualmachines", "PATCH", path));
        let path = "/api/v1/namespaces/%7Bname%7D";
        assert_eq!(asked(&Method::GET, "/api/v1/namespaces/shop"), told("namespaces", "GET", path));
        let path = "/api/v1/namespaces/%7Bnamespace%7D/pods";
        assert_eq!(asked(&Method::POST, "/api/v1/namespaces/shop/pods"), told("pods", "CREATE", path));
        for other in ["/version", "/apis", "/apis/apps/v1", "/", "/anything/else"] {
            assert_eq!(asked(&Method::GET, other), (None, "none", "/%7Bpath%7D".to_owned()));
        }
    }

    #[tokio::test]
    async fn requests_are_counted_by_how_they_end() {
        let mut registry = Registry::default();
        let counts = RestClient::new(&mut registry).of("10.0.0.1:443");
        let server = tower::service_fn(async |request: Request<()>| match request.uri().path() {
            "/api/v1/pods" => Ok(Response::builder().status(429).body(()).unwrap()),
            _ => Err("no route"),
        });
        for path in ["/api/v1/pods", "/api/v1/pods", "/api/v1/nodes/a"] {
            let request = Request::builder().uri(path).body(()).unwrap();
            drop(counts.layer(server).oneshot(request).await);
        }
        let told = |code, resource, verb| {
            let labels =
                format!(r#"code="{code}",method="GET",host="10.0.0.1:443",resource="{resource}",verb="{verb}""#);
            value(&registry, &format!("kubevirt_rest_client_requests_total{{{labels}}}"))
        };
        assert_eq!(told("429", "pods", "LIST"), Some(2.0));
        assert_eq!(told("<error>", "nodes", "GET"), Some(1.0));
        let labels = r#"verb="LIST",url="https://10.0.0.1:443/api/v1/pods""#;
        let count = value(&registry, &format!("kubevirt_rest_client_request_latency_seconds_count{{{labels}}}"));
        assert_eq!(count, Some(2.0));
    }
}
