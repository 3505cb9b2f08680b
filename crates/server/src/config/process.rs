//! Reads the settings of the process: flag, else environment, else file, else default.

use std::time::Duration;

use tidegate_core::MAX_TOKENS;
use tidegate_core::forecast::ForecastDefaults;
use tidegate_store::fleet::{FleetSettings, StoreMode};
use tidegate_store::memory::MemoryBounds;

use super::args::ServeArgs;
use super::parse::{
    HOUR, address, boolean, certificates, count, degrade, directory, duration, header_unit, log_filter, log_format,
    message_bytes, mode, off_or, permille, size, socket_path, store, store_mode, tcp, threads,
};
use super::scrape;
use super::section::Section;
use super::settings::{Bounds, ListenerSettings, LogFormat, Logging, ProcessSettings};
use super::sources::Sources;

/// Most of anything that is counted one by one: what 32 bits number.
const MOST: u32 = u32::MAX;

/// The settings of the process. Where one is wrong, it is noted in `from.problems` and has its default here.
pub(super) fn read(args: &ServeArgs, root: &mut Section<'_>, from: &mut Sources<'_>) -> ProcessSettings {
    let default = ProcessSettings::default();
    let fleet = fleet(args, root, from);
    let data_dir = from.setting("data-dir", args.data_dir.as_ref(), (root, "data_dir"), None, off_or(directory));
    if fleet.is_some() && data_dir.is_some() {
        from.problems.add("data_dir", "is for a process by itself: where limits are shared, the store keeps them");
    }
    let threads = from.setting("threads", args.threads.as_ref(), (root, "threads"), default.threads, threads);
    let drain = duration(Duration::ZERO..=HOUR);
    let drain = from.setting("drain", args.drain.as_ref(), (root, "drain"), default.drain, drain);
    let listeners = listeners(args, root, from);
    let insecure = args.insecure_admin.then(|| "true".to_owned());
    let insecure_admin = from.setting("insecure-admin", insecure.as_ref(), (root, "insecure_admin"), false, boolean);
    if let Some(admin) = listeners.admin.as_ref().filter(|admin| !admin.is_local() && !insecure_admin) {
        from.problems.add(
            "--admin-listen",
            format_args!(
                "{admin} is reachable from other machines, and nobody is authenticated yet: use a loopback address or \
                 unix:PATH, or accept the risk with --insecure-admin"
            ),
        );
    }
    ProcessSettings {
        listeners,
        fleet,
        data_dir,
        insecure_admin,
        threads,
        drain,
        logging: logging(args, root, from),
        header_unit: headers(root, from),
        bounds: bounds(args, root, from),
        forecast: forecast(root, from),
        scrape: scrape::read(root, &mut from.problems),
        #[cfg(feature = "test-clock")]
        test_clock: args.test_clock.as_ref().and_then(|text| {
            count(0..=MOST.into())(text).map_err(|error| from.problems.add("--test-clock", error)).ok()
        }),
    }
}

/// `store = "redis://..."`, or a table of that name with more to say.
fn fleet(args: &ServeArgs, root: &mut Section<'_>, from: &mut Sources<'_>) -> Option<FleetSettings> {
    let (flag, mode) = (args.store.as_ref(), args.store_mode.as_ref());
    let mut table =
        if root.has_table("store") { Section::of(root, "store", &mut from.problems) } else { Section::root(None) };
    let address = if root.has_table("store") {
        from.setting("store", flag, (&mut table, "url"), None, store)
    } else {
        from.setting("store", flag, (root, "store"), None, store)
    };
    let mode = from.setting("store-mode", mode, (&mut table, "mode"), StoreMode::default(), store_mode);
    let problems = &mut from.problems;
    let timeout = table.parsed("timeout", problems, duration(Duration::from_millis(1)..=Duration::from_secs(1)));
    let degrade = table.parsed("degrade", problems, degrade);
    let expected_sidecars = table.parsed("expected_sidecars", problems, count(0..=MOST.into()));
    let roots = table.parsed("ca", problems, certificates);
    table.finish(problems);
    let default = FleetSettings::at(address?);
    if roots.is_some() && !default.address.is_tls() {
        problems.add("store.ca", "is for connections of TLS alone; write rediss:// in store.url");
    }
    Some(FleetSettings {
        roots,
        mode,
        timeout: timeout.unwrap_or(default.timeout),
        degrade: degrade.unwrap_or(default.degrade),
        expected_sidecars: expected_sidecars.unwrap_or(default.expected_sidecars),
        ..default
    })
}

fn listeners(args: &ServeArgs, root: &mut Section<'_>, from: &mut Sources<'_>) -> ListenerSettings {
    let default = ListenerSettings::default();
    let socket = args.unix_socket.as_ref();
    let socket_mode = args.unix_socket_mode.as_ref();
    ListenerSettings {
        limiter: from.setting("listen", args.listen.as_ref(), (root, "listen"), default.limiter, off_or(tcp)),
        unix_socket: from.setting(
            "unix-socket",
            socket,
            (root, "unix_socket"),
            default.unix_socket,
            off_or(socket_path),
        ),
        unix_socket_mode: from.setting(
            "unix-socket-mode",
            socket_mode,
            (root, "unix_socket_mode"),
            default.unix_socket_mode,
            mode,
        ),
        admin: from.setting(
            "admin-listen",
            args.admin_listen.as_ref(),
            (root, "admin_listen"),
            default.admin,
            off_or(address),
        ),
        http: from.setting("http-listen", args.http_listen.as_ref(), (root, "http_listen"), default.http, off_or(tcp)),
    }
}

fn logging(args: &ServeArgs, root: &mut Section<'_>, from: &mut Sources<'_>) -> Logging {
    let default = Logging::default();
    let mut section = Section::of(root, "logging", &mut from.problems);
    let format = (&mut section, "format");
    let format = from.setting("log-format", args.log_format.as_ref(), format, LogFormat::Text, log_format);
    let filter = (&mut section, "filter");
    let filter = from.setting("log-filter", args.log_filter.as_ref(), filter, default.filter, log_filter);
    section.finish(&mut from.problems);
    Logging { format, filter }
}

fn headers(root: &mut Section<'_>, from: &mut Sources<'_>) -> tidegate_core::headers::HeaderUnit {
    let mut section = Section::of(root, "headers", &mut from.problems);
    let unit = section.parsed("unit", &mut from.problems, header_unit);
    section.finish(&mut from.problems);
    unit.unwrap_or(ProcessSettings::default().header_unit)
}

fn bounds(args: &ServeArgs, root: &mut Section<'_>, from: &mut Sources<'_>) -> Bounds {
    let default = Bounds::default();
    let mut section = Section::of(root, "bounds", &mut from.problems);
    let table = &mut section;
    let many = || count(1..=MOST.into());
    let keys = from.setting("max-keys", args.max_keys.as_ref(), (table, "keys"), default.store.keys, many());
    let reservations = from.setting(
        "max-reservations",
        args.max_reservations.as_ref(),
        (table, "reservations"),
        default.store.reservations,
        many(),
    );
    let reservations_per_key = from.setting(
        "max-reservations-per-key",
        args.max_reservations_per_key.as_ref(),
        (table, "reservations_per_key"),
        default.store.reservations_per_key,
        many(),
    );
    let remembered = table.parsed("remembered", &mut from.problems, many()).unwrap_or(default.store.remembered);
    let connections = args.max_connections.as_ref();
    let connections =
        from.setting("max-connections", connections, (table, "connections"), default.connections, size(1..=MOST));
    let calls_in_flight = from.setting(
        "max-calls-in-flight",
        args.max_calls_in_flight.as_ref(),
        (table, "calls_in_flight"),
        default.calls_in_flight,
        size(1..=MOST),
    );
    let problems = &mut from.problems;
    let streams = table.parsed("streams_per_connection", problems, |text| {
        count(1..=65_536)(text).and_then(|count| u32::try_from(count).map_err(|error| error.to_string()))
    });
    let limiter_message = table.parsed("limiter_message", problems, message_bytes);
    let batch_message = table.parsed("batch_message", problems, message_bytes);
    let admin_message = table.parsed("admin_message", problems, message_bytes);
    let ttl = table.parsed("reservation_ttl", problems, duration(Duration::from_secs(1)..=HOUR));
    section.finish(problems);
    Bounds {
        store: MemoryBounds { keys, reservations, reservations_per_key, remembered },
        connections,
        streams_per_connection: streams.unwrap_or(default.streams_per_connection),
        calls_in_flight,
        limiter_message_bytes: limiter_message.unwrap_or(default.limiter_message_bytes),
        batch_message_bytes: batch_message.unwrap_or(default.batch_message_bytes),
        admin_message_bytes: admin_message.unwrap_or(default.admin_message_bytes),
        reservation_ttl: ttl.unwrap_or(default.reservation_ttl),
    }
}

fn forecast(root: &mut Section<'_>, from: &mut Sources<'_>) -> ForecastDefaults {
    let default = ForecastDefaults::default();
    let problems = &mut from.problems;
    let mut section = Section::of(root, "forecast", problems);
    let generated = section.parsed("generated_tokens", problems, count(1..=MAX_TOKENS));
    let speed = section.parsed("tokens_per_second", problems, count(1..=1_000_000));
    let margin = section.parsed("margin_sigmas", problems, |text| match permille(text)? {
        margin @ 0..=10_000 => Ok(margin),
        _ => Err("must be at most 10".to_owned()),
    });
    let guard = section.parsed("guard", problems, |text| match permille(text)? {
        guard @ (0 | 1_000..=1_000_000) => Ok(guard),
        _ => Err("must be 0, for no guard, or 1 to 1000".to_owned()),
    });
    section.finish(problems);
    ForecastDefaults {
        generated_tokens: generated.unwrap_or(default.generated_tokens),
        tokens_per_second: speed.unwrap_or(default.tokens_per_second),
        margin_sigmas_permille: margin.unwrap_or(default.margin_sigmas_permille),
        guard_permille: guard.unwrap_or(default.guard_permille),
    }
}
