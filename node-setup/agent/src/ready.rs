//! What a kubelet asks: whether a port is open, which it is once the node has been told of. A node that is not fit for guests is told of,
//! too: its pod is as it should be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

/// Opens `listen` when it is `ready`, for as long as it is polled; where none is given there is nothing to do.
///
/// # Errors
/// Where `listen` can't be listened on.
pub(crate) async fn answer(ready: &Notify, listen: Option<SocketAddr>) -> io::Result<()> {
    let Some(listen) = listen else { return std::future::pending().await };
    ready.notified().await;
    accept(&TcpListener::bind(listen).await?).await
}

async fn accept(listener: &TcpListener) -> io::Result<()> {
    loop {
        if let Err(error) = listener.accept().await {
            warn!("can't accept a probe's connection: {error}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_port_opens_with_the_first_beat() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (ready, (sender, mut begun)) = (Notify::new(), oneshot::channel::<()>());
        drop(sender);
        tokio::select! {
            biased;
            _ = answer(&ready, Some(free)) => panic!("it ended"),
            _ = &mut begun => assert!(TcpStream::connect(free).await.is_err(), "nothing was said yet"),
        }
        ready.notify_one();
        tokio::select! {
            biased;
            _ = answer(&ready, Some(free)) => panic!("it ended"),
            connected = TcpStream::connect(free) => drop(connected.unwrap()),
        }
    }
}
