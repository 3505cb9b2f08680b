//! What the file says otherwise than the policy that is in force.

use std::collections::BTreeMap;

use tidegate_core::policy::{Account, Model, Override, Policy, Tier, Written};

/// Most differences that are named one by one.
const MOST: usize = 100;

/// One line for each entry that the two have otherwise, in their order by name; `store` is where the policy in force is, for people.
/// Boosts are in no file.
pub(crate) fn between(file: &Policy, stored: &Policy, store: &str) -> Vec<String> {
    let by_title = |policy: &Policy| -> BTreeMap<String, Written> {
        let entries = policy.entries().filter(|entry| !matches!(entry, Written::Boost(_)));
        entries.map(|entry| (entry.title(), without_revision(entry))).collect()
    };
    let (file_entries, stored_entries) = (by_title(file), by_title(stored));
    let mut lines = Vec::new();
    let (in_file, in_store) = (file.enforcement().enforcement, stored.enforcement().enforcement);
    if in_file != in_store {
        lines.push(format!(
            "enforcement is {} by flag, environment or file, and {} in {store}, which holds",
            in_file.name(),
            in_store.name()
        ));
    }
    if file.default_tier() != stored.default_tier() {
        lines.push(format!(
            "default_tier is {:?} in the file, which {store} has no tier of; {:?} stays",
            file.default_tier(),
            stored.default_tier()
        ));
    }
    for (title, entry) in &file_entries {
        match stored_entries.get(title) {
            Some(stored) if stored == entry => {}
            Some(_) => lines.push(format!("{title} is otherwise in the file; what {store} has holds")),
            None => lines.push(format!("{title} is in the file and not in {store}; it does not apply")),
        }
    }
    for title in stored_entries.keys().filter(|title| !file_entries.contains_key(*title)) {
        lines.push(format!("{title} is in {store} and not in the file; it applies"));
    }
    if lines.len() > MOST {
        let more = lines.len() - MOST;
        lines.truncate(MOST);
        lines.push(format!("and {more} differences more; `tidegate config diff` shows all"));
    }
    lines
}

fn without_revision(entry: Written) -> Written {
    match entry {
        Written::Tier(tier) => Written::Tier(Tier { revision: 0, ..tier }),
        Written::Account(account) => Written::Account(Account { revision: 0, ..account }),
        Written::Model(model) => Written::Model(Model { revision: 0, ..model }),
        Written::Override(entry) => Written::Override(Override { revision: 0, ..entry }),
        other @ (Written::Boost(_) | Written::Enforcement(_)) => other,
    }
}
