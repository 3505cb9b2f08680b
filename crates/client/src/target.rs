//! Where a server is, and what connects to it.

use std::fmt;
use std::str::FromStr;

use tonic::transport::{ClientTlsConfig, Endpoint, Error};

/// `http://host:port`, `https://host:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Plain HTTP/2.
    Http(String),
    /// HTTP/2 over TLS; the server's certificate is checked against the roots of the operating system.
    Https(String),
    /// A Unix socket, by its absolute path.
    Unix(String),
}

/// Why a target was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither of the three forms.
    #[error("write http://host:port, https://host:port or unix:/path")]
    UnknownForm,
    /// A URL with something that this service does not use.
    #[error("must end after the port: {0}")]
    Surplus(String),
    /// No port, or none that there is.
    #[error("needs a host and a port from 1 to 65535, such as http://127.0.0.1:7437")]
    NoPort,
    /// A relative path.
    #[error("the socket's path must be absolute, such as unix:/run/tidegate.sock")]
    RelativePath,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            let absolute = path.starts_with('/') && path.len() > 1;
            return if absolute { Ok(Self::Unix(path.to_owned())) } else { Err(TargetError::RelativePath) };
        }
        let (secure, authority) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else {
            (true, text.strip_prefix("https://").ok_or(TargetError::UnknownForm)?)
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if let Some(at) = authority.find(['/', '?', '#', '@']) {
            return Err(TargetError::Surplus(format!("`{}`", &authority[at..])));
        }
        let (host, port) = authority.rsplit_once(':').ok_or(TargetError::NoPort)?;
        let port_exists =
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || !port_exists || (host.contains(':') && !bracketed) {
            return Err(TargetError::NoPort);
        }
        Ok(if secure { Self::Https(authority.to_owned()) } else { Self::Http(authority.to_owned()) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Https(authority) => write!(f, "https://{authority}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Target {
    /// What connects to it: without a timeout, and with small messages sent at once. Over TLS, the server's certificate is checked
    /// against the roots of the operating system, which are read here.
    ///
    /// # Errors
    /// Where the host's name cannot stand in a URL, or the roots cannot be used.
    pub fn endpoint(&self) -> Result<Endpoint, Error> {
        let mut endpoint = Endpoint::from_shared(self.to_string())?;
        if let Self::Https(_) = self {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
        }
        Ok(endpoint.tcp_nodelay(true))
    }
}

/// An error and what caused it, outermost first, each cause once.
#[must_use]
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_written() {
        for text in ["http://127.0.0.1:7437", "https://limiter.example:443", "http://[::1]:7437", "unix:/run/t.sock"] {
            assert_eq!(text.parse::<Target>().expect(text).to_string(), text);
        }
        assert_eq!("unix:///run/t.sock".parse(), Ok(Target::Unix("/run/t.sock".to_owned())));
        assert_eq!("http://h:1/".parse(), Ok(Target::Http("h:1".to_owned())));
    }

    #[test]
    fn other_targets_are_refused_with_what_to_write() {
        for (text, error) in [
            ("127.0.0.1:7437", TargetError::UnknownForm),
            ("grpc://h:1", TargetError::UnknownForm),
            ("", TargetError::UnknownForm),
            ("http://h", TargetError::NoPort),
            ("http://:7437", TargetError::NoPort),
            ("http://h:0", TargetError::NoPort),
            ("http://h:65536", TargetError::NoPort),
            ("http://::1:7437", TargetError::NoPort),
            ("http://h:1/path", TargetError::Surplus("`/path`".to_owned())),
            ("unix:t.sock", TargetError::RelativePath),
            ("unix:/", TargetError::RelativePath),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text}");
        }
    }
}
