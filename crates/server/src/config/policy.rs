//! Reads the policy: law profiles, tiers, models, accounts, overrides.
//!
//! It starts as the built-in policy. A tier of the file that has a built-in name changes what it states and keeps the
//! rest; everything else is added. Each entry is a write to the policy, so the file cannot say what an operator could not.

use tidegate_core::MAX_TOKENS;
use tidegate_core::law::{Knobs, LawParams, profile};
use tidegate_core::policy::{
    Account, Model, ModelBounds, Override, PartialBounds, Policy, PolicyWrite, Scope, Tier, UnknownAccounts, Warning,
    WindowBounds, WriteError, Written,
};
use tidegate_core::time::Timestamp;
use tidegate_core::window::{PerWindow, Window};

use super::amount::{parse_duration, parse_tokens};
use super::parse::{boolean, count, degrade, enforcement, permille};
use super::problem::{Problem, Problems};
use super::section::Section;

/// The policy that a file describes, as far as it is sound.
pub(super) struct Described {
    pub(super) policy: Policy,
    /// What an operator should know, though it is no mistake: where a floor wins over a ceiling.
    pub(super) warnings: Vec<Problem>,
}

/// Reads the policy. What is wrong is noted, and is missing from it.
pub(super) fn read(root: &mut Section<'_>, problems: &mut Problems) -> Described {
    let mut described = Described { policy: Policy::built_in(), warnings: Vec::new() };
    for (name, mut section) in root.named("law_profiles", problems) {
        if let Some(params) = law_profile(&mut section, problems) {
            described.policy = described.policy.with_profile(name, params);
        }
        section.finish(problems);
    }
    for (name, mut section) in root.named("tiers", problems) {
        let tier = tier(name, described.policy.tiers().get(name), &mut section, problems);
        described.write(Some(Written::Tier(tier)), &section, problems);
        section.finish(problems);
    }
    let default_tier = root.path_of("default_tier");
    if let Some(tier) = root.text("default_tier", problems) {
        match described.policy.clone().with_default_tier(&tier) {
            Some(changed) => described.policy = changed,
            None => problems.add(default_tier, format_args!("names no tier: {tier:?}")),
        }
    }
    if let Some(unknown) = root.parsed("unknown_accounts", problems, unknown_accounts) {
        described.policy = described.policy.with_unknown_accounts(unknown);
    }
    for mut section in root.list("models", problems) {
        let model = model(&mut section, problems);
        described.write(model.map(Written::Model), &section, problems);
        section.finish(problems);
    }
    for (name, mut section) in root.named("accounts", problems) {
        let account = Account {
            name: name.to_owned(),
            tier: section.text("tier", problems).unwrap_or_default(),
            blocked: section.parsed("blocked", problems, boolean).unwrap_or_default(),
            enforcement: section.parsed("enforcement", problems, enforcement),
            revision: 0,
        };
        described.write(Some(Written::Account(account)), &section, problems);
        section.finish(problems);
    }
    for mut section in root.list("overrides", problems) {
        let entry = policy_override(&mut section, problems);
        described.write(entry.map(Written::Override), &section, problems);
        section.finish(problems);
    }
    described
}

impl Described {
    /// Writes `entry`, which stands in `section`, unless something that it needs is missing.
    fn write(&mut self, entry: Option<Written>, section: &Section<'_>, problems: &mut Problems) {
        let Some(entry) = entry else { return };
        let exists = matches!(&entry, Written::Tier(tier) if self.policy.tiers().contains_key(&tier.name));
        let write = match exists {
            true => PolicyWrite::Update { entry, expected_revision: None },
            false => PolicyWrite::Create(entry),
        };
        // At the beginning of time, so that an override that has expired since it was written does not stop the server.
        match self.policy.write(write, Timestamp::ZERO) {
            Ok(written) => {
                let warning =
                    |warning: &Warning| Problem { path: section.path().to_owned(), message: warning.to_string() };
                self.warnings.extend(written.warnings.iter().map(warning));
            }
            Err(WriteError::Invalid { field, message }) => problems.add(file_path(section, &field), message),
            Err(other) => problems.add(section.path(), other),
        }
    }
}

fn tier(name: &str, built_in: Option<&Tier>, section: &mut Section<'_>, problems: &mut Problems) -> Tier {
    let inherited = built_in.map(|tier| tier.bounds).unwrap_or_default();
    let bounds = window_bounds(section, inherited, problems);
    let mut models = Vec::new();
    for mut section in section.list("models", problems) {
        let model = required(&mut section, "model", problems);
        let variant = section.text("variant", problems).unwrap_or_default();
        let bounds = window_bounds(&mut section, WindowBounds::default(), problems);
        models.extend(model.map(|model| ModelBounds { model, variant, bounds }));
        section.finish(problems);
    }
    let law_profile = section.text("law_profile", problems).unwrap_or_default();
    let enforcement = section.parsed("enforcement", problems, enforcement);
    let degrade = section.parsed("degrade", problems, degrade);
    Tier { name: name.to_owned(), bounds, models, law_profile, enforcement, degrade, revision: 0 }
}

fn model(section: &mut Section<'_>, problems: &mut Problems) -> Option<Model> {
    let name = required(section, "name", problems);
    let variant = section.text("variant", problems).unwrap_or_default();
    let bounds = window_bounds(section, WindowBounds::default(), problems);
    let law_profile = section.text("law_profile", problems).unwrap_or_default();
    Some(Model { name: name?, variant, bounds, law_profile, revision: 0 })
}

fn policy_override(section: &mut Section<'_>, problems: &mut Problems) -> Option<Override> {
    let (id, account) = (required(section, "id", problems), required(section, "account", problems));
    let (model, variant) = (section.text("model", problems), section.text("variant", problems));
    let bounds = window_bounds(section, WindowBounds::default(), problems);
    let reason = section.text("reason", problems).unwrap_or_default();
    let expires_at = section.instant("expires", problems);
    let scope = Scope { account: account?, model, variant };
    Some(Override { id: id?, scope, bounds, reason, expires_at, revision: 0 })
}

/// What `bounds` states for each window, over what it inherits.
fn window_bounds(section: &mut Section<'_>, inherited: WindowBounds, problems: &mut Problems) -> WindowBounds {
    let mut of_windows = Section::of(section, "bounds", problems);
    let bounds = PerWindow::from_fn(|window: Window| {
        let mut of = Section::of(&mut of_windows, window.name(), problems);
        let floor_tpm = of.parsed("floor", problems, count(1..=MAX_TOKENS)).or(inherited[window].floor_tpm);
        let ceiling_tpm = of.parsed("ceiling", problems, count(1..=MAX_TOKENS)).or(inherited[window].ceiling_tpm);
        let path = of.path_of("floor");
        of.finish(problems);
        match (floor_tpm, ceiling_tpm) {
            (Some(floor), Some(ceiling)) if floor > ceiling => {
                problems.add(path, format_args!("{floor} is above the ceiling, {ceiling}"));
                inherited[window]
            }
            _ => PartialBounds { floor_tpm, ceiling_tpm },
        }
    });
    of_windows.finish(problems);
    bounds
}

fn law_profile(section: &mut Section<'_>, problems: &mut Problems) -> Option<LawParams> {
    let base_path = section.path_of("base");
    let base = section.text("base", problems).unwrap_or_else(|| "default".to_owned());
    let pressure = |text: &str| count(0..=10_000)(text).and_then(|n| u16::try_from(n).map_err(|e| e.to_string()));
    let knobs = Knobs {
        headroom_permille: section.parsed("headroom", problems, permille),
        ramp_doubling: section.parsed("ramp_doubling", problems, parse_duration),
        return_doubling: section.parsed("return_doubling", problems, parse_duration),
        decay_half_life: section.parsed("decay_half_life", problems, parse_duration),
        hold: section.parsed("hold", problems, parse_duration),
        hold_per_minute: section.parsed("hold_per_minute", problems, parse_duration),
        memory_half_life: section.parsed("memory_half_life", problems, parse_duration),
        slow_permille: section.parsed("slow", problems, pressure),
        stop_permille: section.parsed("stop", problems, pressure),
        max_step_tokens: section.parsed("max_step_tokens", problems, parse_tokens),
    };
    let Some(base) = profile(&base) else {
        problems.add(base_path, format_args!("{base:?} is no built-in profile; write default, published or static"));
        return None;
    };
    knobs.resolve(base).map_err(|error| problems.add(section.path_of(error.field), error.message)).ok()
}

fn unknown_accounts(text: &str) -> Result<UnknownAccounts, String> {
    match text {
        "default-tier" => Ok(UnknownAccounts::DefaultTier),
        "forbidden" => Ok(UnknownAccounts::Forbidden),
        _ => Err(format!("`{text}` is no treatment of unknown accounts; write default-tier or forbidden")),
    }
}

/// The text `key`, which must be there; where it is not, that is noted.
fn required(section: &mut Section<'_>, key: &'static str, problems: &mut Problems) -> Option<String> {
    if section.lacks(key) {
        problems.add(section.path_of(key), "is required");
    }
    section.text(key, problems)
}

/// Where the file says what the admin API calls `field`, such as `tier.bounds.prompt.floor_tpm`.
fn file_path(section: &Section<'_>, field: &str) -> String {
    let field = field.split_once('.').map_or(field, |(_, field)| field);
    let field =
        field.replace("_tpm", "").replace("scope.", "").replace("override_id", "id").replace("expire_time", "expires");
    // The name of `[tiers.NAME]` is no key in it.
    if section.lacks(field.split(['.', '[']).next().unwrap_or_default()) {
        return section.path().to_owned();
    }
    format!("{}.{field}", section.path())
}
