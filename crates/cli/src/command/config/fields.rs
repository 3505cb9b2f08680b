//! What an object states, field by field, under the names that the file has for them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidegate_proto::v1::{Account, Bounds, Model, ModelBounds, Override, Scope, Tier, WindowBounds};

use crate::output::{grouped, printable};
use crate::words;

/// Path and value of every field that is stated; what is inherited or left out is absent.
pub(super) type Fields = BTreeMap<String, Value>;

/// A field that differs. `None`: not stated there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldChange {
    /// Such as `bounds.prompt.floor`.
    pub(super) field: String,
    pub(super) server: Option<Value>,
    pub(super) file: Option<Value>,
}

/// The fields in which two objects differ, in the order of their paths.
pub(super) fn differences(server: &Fields, file: &Fields) -> Vec<FieldChange> {
    let paths: BTreeSet<_> = server.keys().chain(file.keys()).collect();
    let change = |path: &String| {
        let (server, file) = (server.get(path).cloned(), file.get(path).cloned());
        (server != file).then(|| FieldChange { field: path.clone(), server, file })
    };
    paths.into_iter().filter_map(change).collect()
}

/// A value for people: amounts grouped, text in quotes, `-` for what is not stated.
pub(super) fn in_words(value: Option<&Value>) -> String {
    match value {
        None => "-".to_owned(),
        Some(Value::Number(number)) => number.as_u64().map_or_else(|| number.to_string(), grouped),
        Some(other) => printable(&other.to_string()),
    }
}

// Each message is taken apart whole, so that a field that is new in the proto cannot be forgotten here.

pub(super) fn of_tier(tier: &Tier) -> Fields {
    let Tier { name: _, bounds, models, law_profile, enforcement, degrade, revision: _ } = tier;
    let mut fields = Fields::new();
    add_enforcement(&mut fields, *enforcement);
    if *degrade != 0 {
        fields.insert("degrade".to_owned(), words::degrade(*degrade).into());
    }
    state(&mut fields, "law_profile", law_profile);
    add_bounds(&mut fields, "bounds", bounds.as_ref());
    for ModelBounds { model, variant, bounds } in models {
        // In quotes, as names may contain anything.
        let path = format!("models[{model:?}, {variant:?}]");
        // It stands there even if it states no bound.
        fields.insert(path.clone(), true.into());
        add_bounds(&mut fields, &format!("{path}.bounds"), bounds.as_ref());
    }
    fields
}

pub(super) fn of_account(account: &Account) -> Fields {
    let Account { name: _, tier, blocked, enforcement, revision: _ } = account;
    let mut fields = Fields::from([("blocked".to_owned(), (*blocked).into())]);
    add_enforcement(&mut fields, *enforcement);
    state(&mut fields, "tier", tier);
    fields
}

pub(super) fn of_model(model: &Model) -> Fields {
    let Model { name: _, variant: _, bounds, law_profile, revision: _ } = model;
    let mut fields = Fields::new();
    state(&mut fields, "law_profile", law_profile);
    add_bounds(&mut fields, "bounds", bounds.as_ref());
    fields
}

pub(super) fn of_override(over: &Override) -> Fields {
    let Override { override_id: _, scope, bounds, reason, expire_time, revision: _ } = over;
    let Scope { account, model, variant } = scope.clone().unwrap_or_default();
    let mut fields = Fields::new();
    // An empty variant is the regular one, none is all of them: so these are stated even when empty.
    let parts = [("account", Some(account)), ("model", model), ("variant", variant)];
    fields.extend(parts.into_iter().filter_map(|(path, part)| part.map(|part| (path.to_owned(), part.into()))));
    state(&mut fields, "reason", reason);
    if let Some(time) = expire_time {
        fields.insert("expires".to_owned(), time.to_string().into());
    }
    add_bounds(&mut fields, "bounds", bounds.as_ref());
    fields
}

fn state(fields: &mut Fields, path: &str, text: &str) {
    if !text.is_empty() {
        fields.insert(path.to_owned(), text.into());
    }
}

fn add_enforcement(fields: &mut Fields, enforcement: i32) {
    if enforcement != 0 {
        fields.insert("enforcement".to_owned(), words::enforcement(enforcement).into());
    }
}

fn add_bounds(fields: &mut Fields, path: &str, bounds: Option<&WindowBounds>) {
    let Some(WindowBounds { prompt, uncached_prompt, generated }) = bounds else { return };
    for (window, bounds) in [("prompt", prompt), ("uncached_prompt", uncached_prompt), ("generated", generated)] {
        let Bounds { floor_tpm, ceiling_tpm } = bounds.unwrap_or_default();
        for (side, tpm) in [("floor", floor_tpm), ("ceiling", ceiling_tpm)] {
            fields.extend(tpm.map(|tpm| (format!("{path}.{window}.{side}"), tpm.into())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inherited_and_what_is_not_set_are_the_same() {
        let bare = Tier::default();
        let empty = WindowBounds { prompt: Some(Bounds::default()), ..WindowBounds::default() };
        let spelled_out = Tier { bounds: Some(empty), revision: 7, ..Tier::default() };
        assert_eq!(of_tier(&bare), of_tier(&spelled_out));
    }

    #[test]
    fn enforcement_is_compared_where_it_is_stated() {
        let [inherits, shadow] = [0, 2].map(|enforcement| of_account(&Account { enforcement, ..Account::default() }));
        let changes = differences(&inherits, &shadow);
        let change = FieldChange { field: "enforcement".to_owned(), server: None, file: Some("shadow".into()) };
        assert_eq!(changes, [change]);
    }

    #[test]
    fn each_difference_names_its_field_as_the_file_does() {
        let bounds = |floor_tpm| {
            let prompt = Some(Bounds { floor_tpm, ceiling_tpm: Some(9_000) });
            Some(WindowBounds { prompt, ..WindowBounds::default() })
        };
        let of_model = |variant: &str| ModelBounds { model: "m".to_owned(), variant: variant.to_owned(), bounds: None };
        let server = Tier { bounds: bounds(Some(5)), models: vec![of_model("")], ..Tier::default() };
        let file = Tier { bounds: bounds(None), law_profile: "static".to_owned(), ..Tier::default() };
        let changes = differences(&of_tier(&server), &of_tier(&file));
        let said: Vec<_> = changes
            .iter()
            .map(|change| (change.field.as_str(), in_words(change.server.as_ref()), in_words(change.file.as_ref())))
            .collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            said,
            [
                ("bounds.prompt.floor", text("5"), text("-")),
                ("law_profile", text("-"), text("\"static\"")),
                ("models[\"m\", \"\"]", text("true"), text("-")),
            ]
        );
    }

    #[test]
    fn the_regular_variant_is_not_every_variant() {
        let scope = |variant: Option<&str>| Override {
            scope: Some(Scope {
                account: "a".to_owned(),
                model: Some("m".to_owned()),
                variant: variant.map(str::to_owned),
            }),
            ..Override::default()
        };
        let changes = differences(&of_override(&scope(None)), &of_override(&scope(Some(""))));
        assert_eq!(changes, [FieldChange { field: "variant".to_owned(), server: None, file: Some("".into()) }]);
    }
}
