//! One side of a comparison: which server, and how it is loaded.

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The binary that is measured.
    Tidegate {
        /// Threads that serve.
        threads: u8,
        /// Of several processes, which: one that holds many keys is not the one that holds few.
        process: u8,
    },
    /// T1: the generated service with an empty handler.
    Empty,
    /// throttlecrab, one limit.
    Throttlecrab,
    /// Redis with a script.
    Redis,
}

impl Subject {
    /// tidegate on one thread, a few keys.
    pub(super) const TIDEGATE: Self = Self::Tidegate { threads: 1, process: 0 };
    /// tidegate on one thread, many keys.
    pub(super) const MANY_KEYS: Self = Self::Tidegate { threads: 1, process: 1 };

    /// What it is called in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tidegate { .. } => "tidegate",
            Self::Empty => "T1",
            Self::Throttlecrab => "throttlecrab",
            Self::Redis => "Redis",
        }
    }
}

/// Where load and server run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cores {
    /// One each.
    Apart,
    /// All of them for both.
    Shared,
}

/// A server and its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) subject: Subject,
    pub(super) unix: bool,
    pub(super) cores: Cores,
    /// Flags of `tidegate bench`.
    pub(super) load: Vec<String>,
    /// Flags of a load that goes before each turn and is not measured: it touches all keys.
    pub(super) before: Vec<String>,
}

impl Side {
    /// Loads `subject` over TCP, each on its own core.
    pub(super) fn new(subject: Subject, load: &str) -> Self {
        Self { subject, unix: false, cores: Cores::Apart, load: words(load), before: Vec::new() }
    }

    /// Over the Unix socket.
    pub(super) fn unix(self) -> Self {
        Self { unix: true, ..self }
    }

    /// With this load before each turn.
    pub(super) fn after(self, load: &str) -> Self {
        Self { before: words(load), ..self }
    }

    /// With more flags.
    pub(super) fn with(mut self, load: &str) -> Self {
        self.load.extend(words(load));
        self
    }

    /// On all cores.
    pub(super) fn on_all_cores(self) -> Self {
        Self { cores: Cores::Shared, ..self }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
