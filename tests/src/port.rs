//! Ports of loopback that stay taken while the server on them is down.
//!
//! To ask for a free port, close it and tell a server its number is a race: another test's server or connection may get it
//! before that, or between the server's death and its restart. So the port stays bound here by a socket that never listens.
//! Linux lets a server with `SO_REUSEADDR` (all of ours set it) listen beside such a socket, and gives the port to nobody
//! who asks for any; a client of a server that is down is refused, and cannot be connected to itself by chance.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A TCP port of 127.0.0.1, nobody else's until it is dropped.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: Socket,
}

impl Port {
    /// Any port that is free.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn free() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        held.set_reuse_address(true).expect("a socket that is not bound yet");
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
        let address = held.local_addr().expect("it is bound").as_socket().expect("it is of IP");
        Self { address, _held: held }
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.address.port()
    }

    /// 127.0.0.1 and its number.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}
