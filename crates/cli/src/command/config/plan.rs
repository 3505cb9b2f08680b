//! The difference between a file and a running server, as the writes that would end it.
//!
//! The server's lists and the file are in the same order, so both are walked once, side by side: what is held is a page of
//! the server and the differences, not its hundred thousand accounts.

use std::collections::HashMap;

use tidegate_core::policy::{Account, Kind, Model, Override, Policy, Tier};
use tidegate_core::time::Timestamp;
use tidegate_proto::convert::admin::Id;

use super::Server;
use super::fields::{FieldChange, Fields, differences};
use super::object::{Object, Scope};
use crate::failure::Failure;
use crate::status::explain;

/// What is to be done about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Only the file has it.
    Create,
    /// They differ; the server's has this revision.
    Update(u64),
    /// Only the server has it, in this revision, and it shall go.
    Delete(u64),
    /// Only the server has it, and it stays.
    Keep,
}

/// One object that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// A model's; empty otherwise.
    pub(super) variant: String,
    pub(super) action: Action,
    /// What differs; of an object that only the server has, all that it states.
    pub(super) changes: Vec<FieldChange>,
    /// The scope of an override that is in force: on the server, and as the file wants it.
    had: Option<Scope>,
    wants: Option<Scope>,
    /// The file's override that wants the scope which this one has on the server.
    pub(super) in_the_way_of: Option<String>,
}

/// Everything that differs, in an order in which it can be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Overrides that exchange their scopes, each wanting that of the next: no order of writes can do that.
    pub(super) exchange: Vec<String>,
}

impl Plan {
    /// Compares `file` with the server. With `prune`, what only the server has shall go.
    ///
    /// An override of the file that has expired at `now` cannot be written and is not in force: where the server has just
    /// this one they agree, else the file counts as without it.
    pub(super) async fn of(server: &mut Server, file: &Policy, now: Timestamp, prune: bool) -> Result<Self, Failure> {
        let mut steps = Vec::new();
        compare::<Tier>(server, "ListTiers", file, now, prune, &mut steps).await?;
        compare::<Model>(server, "ListModels", file, now, prune, &mut steps).await?;
        compare::<Account>(server, "ListAccounts", file, now, prune, &mut steps).await?;
        compare::<Override>(server, "ListOverrides", file, now, prune, &mut steps).await?;
        Ok(Self::ordered(steps))
    }

    fn ordered(mut steps: Vec<Step>) -> Self {
        let wanted = |step: &Step| Some((step.wants.clone()?, step.name.clone()));
        let wanted: HashMap<_, _> = steps.iter().filter_map(wanted).collect();
        for step in &mut steps {
            let taker = step.had.as_ref().and_then(|scope| wanted.get(scope));
            step.in_the_way_of = taker.filter(|taker| **taker != step.name).cloned();
        }
        // Stable: within a turn, by name.
        steps.sort_by_key(Step::turn);
        let mut exchange = Vec::new();
        let first = steps.iter().position(|step| step.turn() == Step::OVERRIDES).unwrap_or(steps.len());
        let rest = steps.split_off(first);
        let (overrides, rest) = rest.into_iter().partition(|step| step.turn() == Step::OVERRIDES);
        steps.extend(freed_first(overrides, &mut exchange));
        steps.extend::<Vec<_>>(rest);
        Self { steps, exchange }
    }

    /// The steps that write, in order.
    pub(super) fn writes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.action != Action::Keep)
    }

    /// How many steps have this action.
    pub(super) fn count(&self, wanted: impl Fn(Action) -> bool) -> usize {
        self.steps.iter().filter(|step| wanted(step.action)).count()
    }

    /// Whether the server says of `step` now what it will say when its turn comes: an override's bounds are merged with those of
    /// tiers, models and accounts.
    pub(super) fn is_known_in_advance(&self, step: &Step) -> bool {
        step.kind != Kind::Override || self.writes().next().is_none_or(|first| first.kind == Kind::Override)
    }

    /// Whether the effect of `step` shows only once steps before it are done.
    pub(super) fn waits(&self, step: &Step) -> bool {
        let tier = step.changes.iter().find(|change| change.field == "tier").and_then(|change| change.file.as_ref());
        let tier = tier.and_then(serde_json::Value::as_str);
        self.writes().take_while(|earlier| *earlier != step).any(|earlier| match step.kind {
            Kind::Account => {
                earlier.kind == Kind::Tier && earlier.action == Action::Create && tier == Some(&earlier.name)
            }
            Kind::Override => earlier.in_the_way_of.as_ref() == Some(&step.name),
            // Accounts that name it may be gone by then.
            Kind::Tier => matches!(step.action, Action::Delete(_)) && earlier.kind == Kind::Account,
            Kind::Model => false,
        })
    }
}

impl Step {
    /// What it is called, such as `model "large" "turbo"`.
    pub(super) fn title(&self) -> String {
        let Self { kind, name, variant, .. } = self;
        if variant.is_empty() {
            format!("{} {name:?}", kind.name())
        } else {
            format!("{} {name:?} {variant:?}", kind.name())
        }
    }

    pub(super) fn id(&self) -> Id<'_> {
        Id { name: &self.name, variant: &self.variant }
    }

    /// The turn of overrides that are written, and of those that are in their way.
    const OVERRIDES: u8 = 3;

    /// What is named is there before what names it, and gone after it.
    fn turn(&self) -> u8 {
        match (self.action, self.kind) {
            (Action::Create | Action::Update(_), Kind::Tier) => 0,
            (Action::Create | Action::Update(_), Kind::Model) => 1,
            (Action::Create | Action::Update(_), Kind::Account) => 2,
            (Action::Create | Action::Update(_), Kind::Override) => Self::OVERRIDES,
            (Action::Delete(_), Kind::Override) if self.in_the_way_of.is_some() => Self::OVERRIDES,
            (Action::Delete(_), Kind::Override) => 5,
            (Action::Delete(_), Kind::Account) => 6,
            (Action::Delete(_), Kind::Model) => 7,
            (Action::Delete(_), Kind::Tier) => 8,
            (Action::Keep, _) => 9,
        }
    }
}

/// Orders overrides so that a scope is free when another one wants it: whoever has it leaves just before, so that its keys are
/// without either for a moment only. Those that exchange their scopes are named in `exchange`.
fn freed_first(overrides: Vec<Step>, exchange: &mut Vec<String>) -> Vec<Step> {
    let had = overrides.iter().enumerate();
    let had: HashMap<_, _> = had.filter_map(|(place, step)| Some((step.had.clone()?, place))).collect();
    // Who has what this one wants.
    let before = |place: usize| had.get(overrides[place].wants.as_ref()?).copied().filter(|other| *other != place);
    let mut turns = vec![None; overrides.len()];
    let mut next = 0;
    // Those that want something first: they draw the others along.
    let (wanting, others): (Vec<_>, Vec<_>) = (0..overrides.len()).partition(|place| overrides[*place].wants.is_some());
    for start in wanting.into_iter().chain(others) {
        let mut chain = Vec::new();
        let mut at = Some(start).filter(|start| turns[*start].is_none());
        while let Some(place) = at {
            // Until its place among the others is known.
            turns[place] = Some(usize::MAX);
            chain.push(place);
            at = before(place);
            // It may be in the chain, or have its place already.
            let again = at.filter(|at| turns[*at] == Some(usize::MAX));
            if let Some(first) = again.and_then(|at| chain.iter().position(|place| *place == at)) {
                *exchange = chain[first..].iter().map(|place| overrides[*place].name.clone()).collect();
            }
            at = at.filter(|place| turns[*place].is_none());
        }
        for place in chain.into_iter().rev() {
            turns[place] = Some(next);
            next += 1;
        }
    }
    let mut ordered: Vec<_> = overrides.into_iter().zip(turns).collect();
    ordered.sort_by_key(|(_, turn)| *turn);
    ordered.into_iter().map(|(step, _)| step).collect()
}

/// Adds what differs among the objects of one kind.
async fn compare<E: Object>(
    server: &mut Server,
    call: &'static str,
    file: &Policy,
    now: Timestamp,
    prune: bool,
    steps: &mut Vec<Step>,
) -> Result<(), Failure> {
    let mut merge = Merge { wanted: E::list(file, None).peekable(), now, prune, steps };
    let mut page_token = String::new();
    loop {
        let (rows, next) =
            E::page(&mut server.client, page_token).await.map_err(|status| explain(call, &server.target, &status))?;
        rows.iter().for_each(|row| merge.on_server(row));
        page_token = next;
        if page_token.is_empty() {
            merge.finish();
            return Ok(());
        }
    }
}

/// Walks the file's objects of one kind beside the server's.
struct Merge<'a, E: Object, I: Iterator<Item = &'a E>> {
    wanted: std::iter::Peekable<I>,
    now: Timestamp,
    prune: bool,
    steps: &'a mut Vec<Step>,
}

impl<'a, E: Object, I: Iterator<Item = &'a E>> Merge<'a, E, I> {
    /// The server's next object.
    fn on_server(&mut self, row: &E::Wire) {
        let id = E::wire_id(row);
        let place = |id: Id<'_>| (id.name.to_owned(), id.variant.to_owned());
        while let Some(entry) = self.wanted.next_if(|entry| place(entry.id()) < place(id)) {
            self.only_in_file(entry);
        }
        let Some(entry) = self.wanted.next_if(|entry| entry.id() == id) else { return self.only_on_server(row) };
        let wire = entry.to_wire();
        let changes = differences(&E::fields(row), &E::fields(&wire));
        if changes.is_empty() {
            return;
        }
        if entry.has_expired(self.now) {
            return self.only_on_server(row);
        }
        let scopes = [E::scope(row, self.now), E::scope(&wire, self.now)];
        self.push(id, Action::Update(E::revision_of(row)), changes, scopes);
    }

    /// The server has no more.
    fn finish(mut self) {
        while let Some(entry) = self.wanted.next() {
            self.only_in_file(entry);
        }
    }

    fn only_in_file(&mut self, entry: &E) {
        if !entry.has_expired(self.now) {
            let wire = entry.to_wire();
            let changes = differences(&Fields::new(), &E::fields(&wire));
            self.push(entry.id(), Action::Create, changes, [None, E::scope(&wire, self.now)]);
        }
    }

    fn only_on_server(&mut self, row: &E::Wire) {
        let action = if self.prune { Action::Delete(E::revision_of(row)) } else { Action::Keep };
        let changes = differences(&E::fields(row), &Fields::new());
        self.push(E::wire_id(row), action, changes, [E::scope(row, self.now), None]);
    }

    fn push(&mut self, id: Id<'_>, action: Action, changes: Vec<FieldChange>, [had, wants]: [Option<Scope>; 2]) {
        let (name, variant) = (id.name.to_owned(), id.variant.to_owned());
        self.steps.push(Step { kind: E::KIND, name, variant, action, changes, had, wants, in_the_way_of: None });
    }
}

#[cfg(test)]
mod tests;
