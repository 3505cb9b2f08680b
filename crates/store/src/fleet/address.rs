//! Where the shared store is: parsed once, never printed with its password.

use std::fmt;

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates, TlsMode};

/// Port of a server whose address names none, and of a Sentinel.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

/// The address of a Redis or Valkey: a server, several of which one is tried after the other, a Cluster, or Sentinels.
///
/// | form | is |
/// |---|---|
/// | `redis://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...][/DB]` | one server; where more are named, the first that answers and takes writes |
/// | `redis+cluster://[USER:PASSWORD@]HOST[:PORT],...` | a Cluster, of which these are members |
/// | `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../NAME` | the master called NAME, which these Sentinels know; user and password are the master's |
/// | `unix:PATH` | one server, on a Unix socket |
///
/// With `rediss` in the place of `redis` all connections are TLS, to Sentinels too; a server's certificate must be of the host as it is named here.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreAddress(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    Servers { servers: Vec<(String, u16)>, user: User, database: i64, tls: bool },
    Cluster { members: Vec<(String, u16)>, user: User, tls: bool },
    Sentinel { sentinels: Vec<(String, u16)>, user: User, master: String, tls: bool },
    Unix { path: String },
}

#[derive(Clone, Default, PartialEq, Eq)]
struct User {
    name: Option<String>,
    password: Option<String>,
}

/// Why a text is no address of a shared store. It never repeats what may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// Another scheme.
    #[error("is not the address of a store; write redis://HOST:PORT, redis+cluster://, redis+sentinel:// or unix:PATH")]
    Scheme,
    /// No host, or one that is none.
    #[error("names no server; write HOST:PORT, several of them separated by commas")]
    Hosts,
    /// Something other than a database's number behind the servers.
    #[error("ends in something that is no number of a database")]
    Database,
    /// Sentinels without the name of a master.
    #[error("names no master; write redis+sentinel://HOST:PORT/NAME")]
    Master,
    /// A user or password in a wrong percent-encoding.
    #[error("has a user or password that is not percent-encoded as it should be")]
    User,
}

impl std::str::FromStr for StoreAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(NoAddress::Hosts)
            } else {
                Ok(Self(Form::Unix { path: path.to_owned() }))
            };
        }
        let (scheme, rest) = text.split_once("://").ok_or(NoAddress::Scheme)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (User::parse(user)?, hosts),
            None => (User::default(), authority),
        };
        let (scheme, tls) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis" | "valkey", kind) => (kind, false),
            ("rediss" | "valkeys", kind) => (kind, true),
            _ => return Err(NoAddress::Scheme),
        };
        let form = match scheme {
            "" => {
                let database = if path.is_empty() { Ok(0) } else { path.parse::<u16>() };
                let database = database.map_err(|_| NoAddress::Database)?.into();
                Form::Servers { servers: servers(hosts, PORT)?, user, database, tls }
            }
            "cluster" if path.is_empty() => Form::Cluster { members: servers(hosts, PORT)?, user, tls },
            "cluster" => return Err(NoAddress::Database),
            "sentinel" if path.is_empty() => return Err(NoAddress::Master),
            "sentinel" => {
                Form::Sentinel { sentinels: servers(hosts, SENTINEL_PORT)?, user, master: path.to_owned(), tls }
            }
            _ => return Err(NoAddress::Scheme),
        };
        Ok(Self(form))
    }
}

/// At least one `HOST` or `HOST:PORT`.
fn servers(hosts: &str, port: u16) -> Result<Vec<(String, u16)>, NoAddress> {
    let server = |text: &str| {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, rest) = match bracketed {
            Some((host, rest)) => (host, rest),
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = if rest.is_empty() { Some(port) } else { rest.strip_prefix(':').and_then(|port| port.parse().ok()) };
        port.filter(|_| !host.is_empty()).map(|port| (host.to_owned(), port)).ok_or(NoAddress::Hosts)
    };
    hosts.split(',').map(server).collect()
}

impl User {
    /// `NAME:PASSWORD`, `:PASSWORD` or `NAME`.
    fn parse(text: &str) -> Result<Self, NoAddress> {
        let decoded = |text: &str| (!text.is_empty()).then(|| percent_decoded(text).ok_or(NoAddress::User)).transpose();
        let (name, password) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { name: decoded(name)?, password: decoded(password)? })
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What opens connections.
pub(super) enum Opener {
    Servers(Vec<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<SentinelClient>),
}

impl StoreAddress {
    /// Whether connections to it are TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        match self.0 {
            Form::Servers { tls, .. } | Form::Cluster { tls, .. } | Form::Sentinel { tls, .. } => tls,
            Form::Unix { .. } => false,
        }
    }

    /// What opens connections to it. `roots`: PEM certificates of those who may sign that of a server; `None`: the system's.
    ///
    /// # Errors
    /// The library's, for an address or a certificate that it cannot take.
    pub(super) fn opener(&self, roots: Option<&[u8]>) -> redis::RedisResult<Opener> {
        if self.is_tls() {
            // Another one that is there already does as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let certificates = || TlsCertificates { client_tls: None, root_cert: roots.map(<[u8]>::to_vec) };
        let address = |(host, port): &(String, u16), tls: bool| {
            let (host, port) = (host.clone(), *port);
            if tls {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        };
        match &self.0 {
            Form::Servers { servers, user, database, tls } => {
                let client = |server| {
                    let info = connection(address(server, *tls), user, *database)?;
                    if *tls { Client::build_with_tls(info, certificates()) } else { Client::open(info) }
                };
                servers.iter().map(client).collect::<Result<_, _>>().map(Opener::Servers)
            }
            Form::Unix { path } => {
                let address = ConnectionAddr::Unix(path.into());
                Ok(Opener::Servers(vec![Client::open(connection(address, &User::default(), 0)?)?]))
            }
            Form::Cluster { members, user, tls } => {
                let members = members.iter().map(|member| connection(address(member, *tls), user, 0));
                let members = members.collect::<redis::RedisResult<Vec<_>>>()?;
                let mut builder = ClusterClient::builder(members)
                    .connection_timeout(super::link::CONNECT)
                    .response_timeout(super::link::ANSWER)
                    .overall_response_timeout(Some(super::link::ANSWER))
                    .retries(1);
                if *tls {
                    builder = builder.tls(TlsMode::Secure).certs(certificates());
                }
                builder.build().map(|client| Opener::Cluster(Box::new(client)))
            }
            Form::Sentinel { sentinels, user, master, tls } => {
                let sentinels = sentinels.iter().map(|sentinel| address(sentinel, *tls));
                let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?;
                if *tls {
                    builder = builder
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates())
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates());
                }
                if let Some(name) = &user.name {
                    builder = builder.set_client_to_redis_username(name);
                }
                if let Some(password) = &user.password {
                    builder = builder.set_client_to_redis_password(password);
                }
                builder.build().map(|client| Opener::Sentinel(Box::new(client)))
            }
        }
    }
}

fn connection(address: ConnectionAddr, user: &User, database: i64) -> redis::RedisResult<ConnectionInfo> {
    let info = address.into_connection_info()?;
    let mut settings = info.redis_settings().clone().set_db(database);
    if let Some(name) = &user.name {
        settings = settings.set_username(name);
    }
    if let Some(password) = &user.password {
        settings = settings.set_password(password);
    }
    Ok(info.set_redis_settings(settings))
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |servers: &[(String, u16)]| {
            let server = |(host, port): &(String, u16)| {
                if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
            };
            servers.iter().map(server).collect::<Vec<_>>().join(",")
        };
        let redis = if self.is_tls() { "rediss" } else { "redis" };
        match &self.0 {
            Form::Servers { servers, database: 0, .. } => write!(f, "{redis}://{}", list(servers)),
            Form::Servers { servers, database, .. } => write!(f, "{redis}://{}/{database}", list(servers)),
            Form::Cluster { members, .. } => write!(f, "{redis}+cluster://{}", list(members)),
            Form::Sentinel { sentinels, master, .. } => write!(f, "{redis}+sentinel://{}/{master}", list(sentinels)),
            Form::Unix { path } => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_printed_without_its_password() {
        for (text, printed) in [
            ("redis://:secret@10.0.0.1", "redis://10.0.0.1:6379"),
            ("redis://me:s%40cret@a:1,b:2/3", "redis://a:1,b:2/3"),
            ("valkey://[::1]:7", "redis://[::1]:7"),
            ("redis+cluster://u:secret@a,b:2", "redis+cluster://a:6379,b:2"),
            ("rediss://:secret@a/3", "rediss://a:6379/3"),
            ("valkeys+cluster://:secret@a", "rediss+cluster://a:6379"),
            ("rediss+sentinel://:secret@a/main", "rediss+sentinel://a:26379/main"),
            ("redis+sentinel://:secret@a,b/main", "redis+sentinel://a:26379,b:26379/main"),
            ("unix:/run/redis.sock", "unix:/run/redis.sock"),
        ] {
            let address: StoreAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), printed);
            assert_eq!(format!("{address:?}"), printed);
            assert!(address.opener(None).is_ok(), "{text}");
        }
        let Ok(StoreAddress(Form::Servers { user, .. })) = "redis://me:s%40cret@a:1".parse() else {
            unreachable!("it is one")
        };
        assert_eq!((user.name.as_deref(), user.password.as_deref()), (Some("me"), Some("s@cret")));
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_repeated() {
        for (text, why) in [
            ("memory", NoAddress::Scheme),
            ("http://:secret@a", NoAddress::Scheme),
            ("redis+tls://:secret@a", NoAddress::Scheme),
            ("rediss+cluster://:secret@a/1", NoAddress::Database),
            ("redis://", NoAddress::Hosts),
            ("redis://:secret@a:port", NoAddress::Hosts),
            ("redis://a,,b", NoAddress::Hosts),
            ("redis://a/secret", NoAddress::Database),
            ("redis+sentinel://a", NoAddress::Master),
            ("redis://:%zz@a", NoAddress::User),
            ("unix:", NoAddress::Hosts),
        ] {
            let parsed = text.parse::<StoreAddress>();
            assert_eq!(parsed, Err(why), "{text}");
            assert!(!why.to_string().contains("secret"));
        }
    }
}
