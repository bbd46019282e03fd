//! A client of the service over an exec's streams: those of a WebSocket to the API server, or to containerd.

use std::future::ready;
use std::io;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::metadata::{BinaryMetadataValue, MetadataValue};
use tonic::transport::{Channel, Endpoint, Error, Uri};

use super::TOKEN;

/// A channel over `stream`, which reads the exec's stdout and writes its stdin. It isn't made anew when that ends. Needs a tokio runtime.
pub async fn channel(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Channel, Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let ended = || io::Error::new(io::ErrorKind::NotConnected, "the exec has ended");
        ready(stream.take().map(TokioIo::new).ok_or_else(ended))
    });
    // The authority means nothing: there is one machine at the other end.
    Endpoint::from_static("http://machine").connect_with_connector(connector).await
}

/// `message` as a request with a token ([`super::token::Signer::sign`]).
pub fn with_token<T>(message: T, token: &[u8]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value: BinaryMetadataValue = MetadataValue::from_bytes(token);
    request.metadata_mut().insert_bin(TOKEN, value);
    request
}
