//! Binding: every address is taken, or the process says why and starts nothing.
//!
//! Rejected: one `SO_REUSEPORT` listener per serving thread. The kernel would also hand half of the connections to a second
//! tidegate started on the same address by mistake, each with budgets of its own, and with few long-lived gateway
//! connections its hash leaves threads idle. One acceptor deals connections to the least loaded thread instead (`threads`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Address, ListenerSettings};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;

/// A listener that could not be had. Nothing is listening; the caller may change the setting or stop the other process.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: cannot listen on {address}: {reason}")]
pub struct BindError {
    /// The flag that sets the address.
    pub flag: &'static str,
    /// The address.
    pub address: String,
    /// Why: `address in use ...`, or the system's words.
    pub reason: String,
}

/// The sockets of a process, bound and listening. Dropping them closes them and removes the socket files.
#[derive(Debug)]
pub struct Listeners {
    /// The limiter's: TCP, Unix socket, both or none.
    pub limiter: Vec<Listener>,
    /// The admin service's.
    pub admin: Option<Listener>,
    /// That of metrics and probes.
    pub http: Option<Listener>,
}

impl Listeners {
    /// Binds every address of `settings`.
    ///
    /// # Errors
    /// The first address that cannot be had; the others are closed again.
    pub fn bind(settings: &ListenerSettings) -> Result<Self, BindError> {
        let mode = settings.unix_socket_mode;
        let mut limiter = Vec::new();
        if let Some(address) = settings.limiter {
            limiter.push(Listener::bind("--listen", &Address::Tcp(address), mode)?);
        }
        if let Some(path) = &settings.unix_socket {
            limiter.push(Listener::bind("--unix-socket", &Address::Unix(path.clone()), mode)?);
        }
        let admin = settings.admin.as_ref();
        let admin = admin.map(|address| Listener::bind("--admin-listen", address, mode)).transpose()?;
        let http = settings.http.map(|address| Listener::bind("--http-listen", &Address::Tcp(address), mode));
        Ok(Self { limiter, admin, http: http.transpose()? })
    }
}

/// A listening socket, not blocking.
#[derive(Debug)]
pub enum Listener {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixSocket),
}

impl Listener {
    fn bind(flag: &'static str, address: &Address, unix_mode: u32) -> Result<Self, BindError> {
        let listener = match address {
            Address::Tcp(tcp) => bind_tcp(*tcp).map(Self::Tcp),
            Address::Unix(path) => UnixSocket::bind(path, unix_mode).map(Self::Unix),
        };
        listener.map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::AddrInUse => "address in use (is another tidegate serving it?)".to_owned(),
                _ => error.to_string(),
            };
            BindError { flag, address: address.to_string(), reason }
        })
    }

    /// Where it listens, with the port that was picked; `None` where the system does not say.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Address::Tcp),
            Self::Unix(socket) => Some(Address::Unix(socket.path.clone())),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Only lets a restart take over from connections in TIME_WAIT; a second listener is still refused.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A Unix socket and its file, which goes when this is dropped (unless it is another process's by then).
#[derive(Debug)]
pub struct UnixSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

impl UnixSocket {
    /// Listens at `path`. A socket file that nobody listens on, left by a killed process, is replaced; one that somebody
    /// listens on, or any other file, is an error.
    fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = path.symlink_metadata().map(|file| (file.dev(), file.ino()))?;
        // Nobody can connect before `listen`: there is no moment with other permissions.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(Self { listener: socket.into(), path: path.to_owned(), file })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = self.path.symlink_metadata().is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

/// Removes a socket file at `path` that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match path.symlink_metadata() {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::other("the file exists and is not a socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Without blocking: where somebody listens whose queue is full, the answer is EAGAIN.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(socket: Option<PathBuf>) -> ListenerSettings {
        ListenerSettings {
            limiter: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            unix_socket: socket,
            unix_socket_mode: 0o660,
            admin: None,
            http: None,
        }
    }

    #[test]
    fn an_address_is_had_once() {
        let first = Listeners::bind(&settings(None)).expect("a free port");
        let Some(Address::Tcp(taken)) = first.limiter[0].address() else { panic!("not TCP") };
        assert_ne!(taken.port(), 0);
        let again = ListenerSettings { limiter: Some(taken), ..settings(None) };
        let error = Listeners::bind(&again).expect_err("taken").to_string();
        assert_eq!(
            error,
            format!("--listen: cannot listen on {taken}: address in use (is another tidegate serving it?)")
        );
        drop(first);
        Listeners::bind(&again).expect("free again");
    }

    #[test]
    fn a_socket_file_is_replaced_only_where_nobody_listens() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("limiter.sock");
        let first = Listeners::bind(&settings(Some(path.clone()))).expect("a new socket");
        assert_eq!(path.metadata().expect("the file").permissions().mode() & 0o777, 0o660);
        let error = Listeners::bind(&settings(Some(path.clone()))).expect_err("taken").to_string();
        assert!(
            error.starts_with("--unix-socket: cannot listen on unix:") && error.contains("address in use"),
            "{error}"
        );
        drop(first);
        assert!(!path.exists(), "removed when it closes");

        // A killed process leaves its file.
        drop(UnixListener::bind(&path).expect("a socket"));
        assert!(path.exists());
        let replaced = Listeners::bind(&settings(Some(path.clone()))).expect("replaces the stale file");
        // Another process's file is not ours to remove.
        std::fs::remove_file(&path).expect("removes");
        let other = UnixListener::bind(&path).expect("a socket");
        drop(replaced);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn other_files_and_missing_folders_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").expect("writes");
        let error = Listeners::bind(&settings(Some(path.clone()))).expect_err("a file").to_string();
        assert!(error.contains("exists and is not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "data");

        let error = Listeners::bind(&settings(Some(folder.path().join("no/where.sock")))).expect_err("no folder");
        assert!(error.to_string().contains("No such file or directory"), "{error}");
    }
}
