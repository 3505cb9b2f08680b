//! A TCP proxy between a client and a server, for the faults that a network has: it delays, stalls, cuts and refuses.
//!
//! A proxy and not the kernel's own means (packet filters, namespaces), which need root and cannot cut after a byte. Its
//! delays are tokio's, so that with paused time hours of them take no time; on a paused clock the time goes to the next timer
//! whenever all wait for bytes, so there only the test's own timers and the delays should be running.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::port::Port;

/// Connections at a time; above it, new ones are cut at once, and a line on standard error says so.
const CONNECTIONS: usize = 1024;
/// Most bytes of one piece, and pieces of one direction of a connection, that wait for their time; above it, the sender waits
/// (and its bytes are delayed by more than they should be).
const PIECE: usize = 4096;
const PIECES: usize = 512;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// What happens to connections. A new one takes the place of the old one, for existing connections too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: every byte goes on as it comes, and so does the end of a connection, in each direction. A client of a server
    /// that is away is connected, and cut at once.
    None,
    /// Every byte, and the end of a connection, goes on this long after it came. To connect takes no longer.
    Delay {
        /// What the client sends.
        to_server: Duration,
        /// What the server sends.
        to_client: Duration,
    },
    /// Connections are accepted, and nothing goes on, not even their ends. What came goes on when the fault is over.
    Stall,
    /// New connections are refused. Those that exist go on untouched.
    Refuse,
    /// In one direction, each connection has this many bytes left, from now or from its begin; the other direction goes on.
    /// Then it is cut, and both sides see it end; with none left, at the first byte that comes. The bytes before arrive.
    CutAfter {
        /// Where the bytes are counted.
        direction: Direction,
        /// How many go on.
        bytes: usize,
    },
}

impl Fault {
    /// When what came at `at` goes on; `None`: not while this lasts.
    fn due(self, at: Instant, direction: Direction) -> Option<Instant> {
        match (self, direction) {
            (Self::Stall, _) => None,
            (Self::Delay { to_server, .. }, Direction::ToServer) => Some(at + to_server),
            (Self::Delay { to_client, .. }, Direction::ToClient) => Some(at + to_client),
            (Self::None | Self::Refuse | Self::CutAfter { .. }, _) => Some(at),
        }
    }
}

/// A fault, and how many there were before it.
#[derive(Clone, Copy, Debug)]
struct Switch {
    fault: Fault,
    number: u64,
}

enum Order {
    Switch(Fault),
    Cut,
}

/// A proxy that runs. Its port and all its connections are closed soon after it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    _running: JoinSet<()>,
}

impl FaultProxy {
    /// A proxy on a free port of loopback, before the server at this address, such as `127.0.0.1:41234`; without a fault.
    ///
    /// # Panics
    /// If the address is none, or outside a runtime.
    #[must_use]
    pub fn before(server: &str) -> Self {
        let server = server.parse().unwrap_or_else(|error| panic!("{server}: {error}"));
        let port = Port::free();
        let address = port.address();
        let listener = listen(&port);
        let (orders, received) = mpsc::channel(1);
        let mut running = JoinSet::new();
        running.spawn(run(port, listener, server, received));
        Self { address, orders, _running: running }
    }

    /// The address for the client, such as `127.0.0.1:41234`; always the same one.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From its return on, this is what happens. Bytes whose writing has begun go on.
    ///
    /// # Panics
    /// If the proxy has failed.
    pub async fn switch(&self, fault: Fault) {
        self.order(Order::Switch(fault)).await;
    }

    /// Cuts all connections, those too that a client has just opened: both sides see them reset, and what waited is lost.
    /// They are gone when it returns. New ones are as the fault has it.
    ///
    /// # Panics
    /// If the proxy has failed.
    pub async fn cut(&self) {
        self.order(Order::Cut).await;
    }

    async fn order(&self, order: Order) {
        let (done, is_done) = oneshot::channel();
        self.orders.send((order, done)).await.unwrap_or_else(|_| panic!("the proxy runs"));
        is_done.await.expect("the proxy runs");
    }
}

fn listen(port: &Port) -> TcpListener {
    let listen = || -> io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        // Beside the socket that keeps the port ours.
        socket.set_reuseaddr(true)?;
        socket.bind(port.address())?;
        socket.listen(1024)
    };
    listen().unwrap_or_else(|error| panic!("{}: {error}", port.address()))
}

async fn run(
    port: Port,
    listener: TcpListener,
    server: SocketAddr,
    mut orders: mpsc::Receiver<(Order, oneshot::Sender<()>)>,
) {
    let mut listener = Some(listener);
    let (faults, _) = watch::channel(Switch { fault: Fault::None, number: 0 });
    let mut connections = Connections { server, faults, cut: watch::channel(()).0, running: JoinSet::new() };
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((order, done)) = order else { return };
                match order {
                    Order::Switch(fault) => {
                        connections.faults.send_modify(|last| *last = Switch { fault, number: last.number + 1 });
                        if fault == Fault::Refuse {
                            listener = None;
                        } else {
                            listener.get_or_insert_with(|| listen(&port));
                        }
                    }
                    Order::Cut => {
                        connections.take_waiting(listener.as_ref()).await;
                        connections.cut().await;
                    }
                }
                // Whoever ordered it may be gone.
                let _ = done.send(());
            }
            client = accept(listener.as_ref()) => connections.carry(client),
            Some(_) = connections.running.join_next() => {}
        }
    }
}

/// The next client; never, where nobody listens.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        // A client that gave up before it was taken is an error here.
        if let Ok((client, _)) = listener.accept().await {
            return client;
        }
    }
}

struct Connections {
    server: SocketAddr,
    faults: watch::Sender<Switch>,
    /// Every connection holds a receiver until its sockets are closed.
    cut: watch::Sender<()>,
    running: JoinSet<()>,
}

impl Connections {
    fn carry(&mut self, client: TcpStream) {
        if self.running.len() >= CONNECTIONS {
            eprintln!("the fault proxy has {CONNECTIONS} connections and cuts this one");
            return;
        }
        let (server, faults, mut cut) = (self.server, self.faults.subscribe(), self.cut.subscribe());
        self.running.spawn(async move {
            carry(client, server, faults, &mut cut).await;
            // After the sockets, which is what a cut waits for.
            drop(cut);
        });
    }

    /// Takes those that wait to be accepted. The millisecond lets the runtime hear of all that came until now.
    async fn take_waiting(&mut self, listener: Option<&TcpListener>) {
        while let Ok(client) = tokio::time::timeout(Duration::from_millis(1), accept(listener)).await {
            self.carry(client);
        }
    }

    async fn cut(&mut self) {
        let old = std::mem::replace(&mut self.cut, watch::channel(()).0);
        old.send_replace(());
        old.closed().await;
    }
}

/// A connection is to be closed on both sides.
struct Cut;

async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    faults: watch::Receiver<Switch>,
    cut: &mut watch::Receiver<()>,
) {
    let server = tokio::select! {
        server = TcpStream::connect(server) => server,
        _ = cut.changed() => Err(io::ErrorKind::ConnectionReset.into()),
    };
    let Ok(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    for stream in [&client, &server] {
        // Else small pieces wait for each other, which is a delay that nobody asked for. Fails where it is broken already.
        let _ = stream.set_nodelay(true);
    }
    let is_cut = tokio::select! {
        _ = both_ways(&mut client, &mut server, &faults) => false,
        _ = cut.changed() => true,
    };
    if is_cut {
        for stream in [&client, &server] {
            // Dropped like this, it says that it was reset.
            let _ = stream.set_zero_linger();
        }
    }
}

async fn both_ways(
    client: &mut TcpStream,
    server: &mut TcpStream,
    faults: &watch::Receiver<Switch>,
) -> Result<(), Cut> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        forward(from_client, to_server, faults.clone(), Direction::ToServer),
        forward(from_server, to_client, faults.clone(), Direction::ToClient),
    )?;
    Ok(())
}

/// What came, and when. No bytes: the end.
struct Piece {
    at: Instant,
    bytes: Vec<u8>,
}

async fn forward(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    faults: watch::Receiver<Switch>,
    direction: Direction,
) -> Result<(), Cut> {
    let (pieces, waiting) = mpsc::channel(PIECES);
    let ((), is_cut) = tokio::join!(take_in(from, pieces), give_out(waiting, to, faults, direction));
    is_cut
}

/// Notes when each byte came, without waiting for those before it to go on.
async fn take_in(mut from: impl AsyncRead + Unpin, pieces: mpsc::Sender<Piece>) {
    let mut buffer = [0; PIECE];
    loop {
        // A side that broke off is one that ended: what it said before still goes on.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        let piece = Piece { at: Instant::now(), bytes: buffer[..count].to_vec() };
        if pieces.send(piece).await.is_err() || count == 0 {
            return;
        }
    }
}

async fn give_out(
    mut waiting: mpsc::Receiver<Piece>,
    mut to: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<Switch>,
    direction: Direction,
) -> Result<(), Cut> {
    // Of which switch the bytes are counted, and how many it has left.
    let (mut counted, mut left) = (None, 0);
    while let Some(Piece { at, bytes }) = waiting.recv().await {
        wait_until_due(at, &mut faults, direction).await;
        if bytes.is_empty() {
            // Where the other side is gone already, it needs no goodbye.
            let _ = to.shutdown().await;
            return Ok(());
        }
        let current = *faults.borrow();
        let limit = match current.fault {
            Fault::CutAfter { direction: limited, bytes } if limited == direction => Some(bytes),
            _ => None,
        };
        if let Some(limit) = limit
            && counted != Some(current.number)
        {
            (counted, left) = (Some(current.number), limit);
        }
        let passes = if limit.is_some() { left.min(bytes.len()) } else { bytes.len() };
        if to.write_all(&bytes[..passes]).await.is_err() {
            // That side is gone, which its own direction tells the other one when it is time.
            return Ok(());
        }
        if limit.is_some() {
            left -= passes;
            if left == 0 {
                let _ = to.shutdown().await;
                return Err(Cut);
            }
        }
    }
    Ok(())
}

async fn wait_until_due(at: Instant, faults: &mut watch::Receiver<Switch>, direction: Direction) {
    loop {
        let due = faults.borrow_and_update().fault.due(at, direction);
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => return,
            // Without its sender the proxy is gone, and this with it.
            _ = faults.changed() => {}
        }
    }
}
