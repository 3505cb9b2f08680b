//! Single settings: text into what it means, or what to write instead.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_core::headers::HeaderUnit;
use tidegate_core::policy::{Degrade, Enforcement};
use tidegate_store::fleet::{NoAddress, StoreAddress, StoreMode};
use tracing_subscriber::EnvFilter;

use super::amount::{parse_duration, parse_tokens};
use super::settings::{Address, LogFormat};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

/// Longest path of a Unix socket, bytes: `sun_path` less its closing NUL.
const MAX_SOCKET_PATH: usize = 107;

/// `off`, or what `parse` reads.
pub(super) fn off_or<T>(parse: impl Fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| if text == "off" { Ok(None) } else { parse(text).map(Some) }
}

/// `IP:PORT`, or `localhost:PORT`. No other name: what a name resolves to tomorrow is not what was checked today.
pub(super) fn tcp(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    let local = local.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let refusal = || format!("`{text}` is not an address; write IP:PORT such as 127.0.0.1:7437, or off");
    local.or_else(|| text.parse().ok()).ok_or_else(refusal)
}

/// A path, optionally as `unix:PATH`.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.is_empty() || path.contains('\0') {
        return Err("must be the path of a Unix socket, or off".to_owned());
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!("is a path of {} bytes; a Unix socket's has at most {MAX_SOCKET_PATH}", path.len()));
    }
    Ok(PathBuf::from(path))
}

/// The path of a directory.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("must be the path of a directory, or off".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// `IP:PORT` or `unix:PATH`.
pub(super) fn address(text: &str) -> Result<Address, String> {
    if text.starts_with("unix:") { socket_path(text).map(Address::Unix) } else { tcp(text).map(Address::Tcp) }
}

/// An octal mode; the socket's owner must keep access.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let refusal = || format!("`{text}` is not a mode; write three octal digits such as 0660");
    let mode = u32::from_str_radix(text, 8).map_err(|_| refusal())?;
    if mode > 0o777 { Err(refusal()) } else { Ok(mode) }
}

/// `on` or `shadow`.
pub(super) fn enforcement(text: &str) -> Result<Enforcement, String> {
    match text {
        "on" => Ok(Enforcement::On),
        "shadow" => Ok(Enforcement::Shadow),
        _ => Err(format!("`{text}` is neither on nor shadow")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// `memory`, or where the shared store is. Whatever is wrong with it may be a password: it is never printed.
pub(super) fn store(text: &str) -> Result<Option<StoreAddress>, String> {
    if text == "memory" { Ok(None) } else { text.parse().map(Some).map_err(|error: NoAddress| error.to_string()) }
}

/// What a file of PEM certificates holds.
pub(super) fn certificates(path: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(marker.len()).any(|bytes| bytes == marker) {
        Ok(pem)
    } else {
        Err(format!("{path} holds no certificate in PEM"))
    }
}

pub(super) fn store_mode(text: &str) -> Result<StoreMode, String> {
    match text {
        "leased" => Ok(StoreMode::Leased),
        "strict" => Ok(StoreMode::Strict),
        _ => Err(format!("`{text}` is neither leased nor strict")),
    }
}

pub(super) fn degrade(text: &str) -> Result<Degrade, String> {
    match text {
        "share" => Ok(Degrade::Share),
        "closed" => Ok(Degrade::Closed),
        "open" => Ok(Degrade::Open),
        _ => Err(format!("`{text}` is neither share nor closed nor open")),
    }
}

/// A count within `range`.
pub(super) fn count(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let count = parse_tokens(text).map_err(|error| error.to_string())?;
        if range.contains(&count) {
            return Ok(count);
        }
        Err(format!("{count} is out of range; write {} to {}", range.start(), range.end()))
    }
}

/// As [`count`], for what is counted in memory.
pub(super) fn size(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<usize, String> {
    let count = count(u64::from(*range.start())..=u64::from(*range.end()));
    // A u32 fits every usize that tidegate runs on.
    move |text| count(text).and_then(|count| usize::try_from(count).map_err(|error| error.to_string()))
}

pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    size(1..=1_024)(text).and_then(|count| NonZeroUsize::new(count).ok_or_else(|| "must be at least 1".to_owned()))
}

/// Bytes, 1 KiB to 64 MiB: `65536`, `64KiB` or `4MiB`.
pub(super) fn message_bytes(text: &str) -> Result<usize, String> {
    let (number, scale) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1_024),
        (_, Some(number)) => (number, 1_024 * 1_024),
        _ => (text, 1),
    };
    let bytes = number.trim().parse::<usize>().ok().and_then(|number| number.checked_mul(scale));
    bytes
        .filter(|bytes| (1_024..=64 * 1_024 * 1_024).contains(bytes))
        .ok_or_else(|| format!("`{text}` is not a size; write bytes, 64KiB or 4MiB, from 1KiB to 64MiB"))
}

/// A duration within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        let duration = parse_duration(text).map_err(|error| error.to_string())?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(format!("{text} is out of range; write {:?} to {:?}", range.start(), range.end()))
    }
}

/// A ratio such as `1.5` in permille.
pub(super) fn permille(text: &str) -> Result<u32, String> {
    let thousands = parse_tokens(&format!("{text}k"));
    let permille = thousands.ok().filter(|_| !text.contains('_')).and_then(|permille| u32::try_from(permille).ok());
    permille.ok_or_else(|| format!("`{text}` is not a ratio; write a number with at most three decimals, such as 1.5"))
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is no log format; write text or json")),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = EnvFilter::try_new(text);
    filter.map(|_| text.to_owned()).map_err(|error| format!("`{text}` is no log filter: {error}"))
}

pub(super) fn header_unit(text: &str) -> Result<HeaderUnit, String> {
    match text {
        "tps" => Ok(HeaderUnit::TokensPerSecond),
        "tpm" => Ok(HeaderUnit::TokensPerMinute),
        _ => Err(format!("`{text}` is no unit of the headers; write tps or tpm")),
    }
}
