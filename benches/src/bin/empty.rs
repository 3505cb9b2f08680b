//! The floor that tidegate's wire is measured against: tonic's server and the generated service with an empty handler, on one thread.
//! `wire` starts it. Prints `listening limiter=ADDR` and serves until it is killed.
//!
//! Profile, allocator, runtime, socket options and HTTP/2 settings are those of `tidegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tidegate_benches::wire::empty::Empty;
use tidegate_benches::wire::socket::Socket;
use tidegate_proto::v1::rate_limiter_service_server::RateLimiterServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Builder;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;

/// As `tidegate` itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A Unix socket to listen on as well
    #[arg(long)]
    unix_socket: Option<PathBuf>,
    /// Write frames of 256 bytes and more by themselves, as tonic's own listener does
    #[arg(long)]
    vectored: bool,
}

/// Settings as in `tidegate_server::http2`.
fn router() -> Router {
    Server::builder()
        .max_concurrent_streams(256)
        .initial_stream_window_size(64 * 1_024)
        .initial_connection_window_size(2 * 1_024 * 1_024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .http2_max_header_list_size(16 * 1_024)
        .add_service(RateLimiterServiceServer::new(Empty::default()))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let tcp = TcpListener::bind(arguments.listen).await?;
        let unix = arguments.unix_socket.map(UnixListener::bind).transpose()?;
        println!("listening limiter={}", tcp.local_addr()?);
        let is_vectored = arguments.vectored;
        let on_tcp = TcpListenerStream::new(tcp).map(|stream| Socket::tcp(stream?, is_vectored));
        let on_tcp = router().serve_with_incoming(on_tcp);
        match unix {
            Some(unix) => {
                let on_unix = UnixListenerStream::new(unix).map(|stream| stream.map(|s| Socket::unix(s, is_vectored)));
                tokio::try_join!(on_tcp, router().serve_with_incoming(on_unix))?;
            }
            None => on_tcp.await?,
        }
        Ok(())
    })
}
