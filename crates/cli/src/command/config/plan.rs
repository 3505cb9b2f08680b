//! The difference between a file and a running server, as the writes that would end it.
//!
//! The server's lists and the file are in the same order, so both are walked once, side by side: what is held is a page of
//! the server and the differences, not its hundred thousand accounts.

use tidegate_core::policy::{Account, Kind, Model, Override, Policy, Tier};
use tidegate_core::time::Timestamp;
use tidegate_proto::convert::admin::Id;

use super::Server;
use super::fields::{FieldChange, Fields, differences};
use super::object::Object;
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
    /// What differs; of an object that only the server has, nothing.
    pub(super) changes: Vec<FieldChange>,
    /// The file's override whose scope this one, which only the server has, takes.
    pub(super) in_the_way_of: Option<String>,
}

/// Everything that differs, in an order in which it can be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
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
        // Stable: within a turn, by name.
        steps.sort_by_key(Step::turn);
        Self { steps }
    }

    /// The steps that write, in order.
    pub(super) fn writes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.action != Action::Keep)
    }

    /// How many steps have this action.
    pub(super) fn count(&self, wanted: impl Fn(Action) -> bool) -> usize {
        self.steps.iter().filter(|step| wanted(step.action)).count()
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

    /// What is named is there before what names it, and gone after it. An override that has the scope of another goes just
    /// before that one comes, so that its account is without either for a moment only.
    fn turn(&self) -> u8 {
        match (self.action, self.kind) {
            (Action::Create | Action::Update(_), Kind::Tier) => 0,
            (Action::Create | Action::Update(_), Kind::Model) => 1,
            (Action::Create | Action::Update(_), Kind::Account) => 2,
            (Action::Delete(_), Kind::Override) if self.in_the_way_of.is_some() => 3,
            (Action::Create | Action::Update(_), Kind::Override) => 4,
            (Action::Delete(_), Kind::Override) => 5,
            (Action::Delete(_), Kind::Account) => 6,
            (Action::Delete(_), Kind::Model) => 7,
            (Action::Delete(_), Kind::Tier) => 8,
            (Action::Keep, _) => 9,
        }
    }
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
    let mut merge = Merge { wanted: E::list(file, None).peekable(), file, now, prune, steps };
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
    file: &'a Policy,
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
        let changes = differences(&E::fields(row), &E::fields(&entry.to_wire()));
        if changes.is_empty() {
            return;
        }
        if entry.has_expired(self.now) {
            return self.only_on_server(row);
        }
        self.push(id, Action::Update(E::revision_of(row)), changes, None);
    }

    /// The server has no more.
    fn finish(mut self) {
        while let Some(entry) = self.wanted.next() {
            self.only_in_file(entry);
        }
    }

    fn only_in_file(&mut self, entry: &E) {
        if !entry.has_expired(self.now) {
            let changes = differences(&Fields::new(), &E::fields(&entry.to_wire()));
            self.push(entry.id(), Action::Create, changes, None);
        }
    }

    fn only_on_server(&mut self, row: &E::Wire) {
        let action = if self.prune { Action::Delete(E::revision_of(row)) } else { Action::Keep };
        self.push(E::wire_id(row), action, Vec::new(), E::in_the_way_of(row, self.file, self.now));
    }

    fn push(&mut self, id: Id<'_>, action: Action, changes: Vec<FieldChange>, in_the_way_of: Option<String>) {
        let (name, variant) = (id.name.to_owned(), id.variant.to_owned());
        self.steps.push(Step { kind: E::KIND, name, variant, action, changes, in_the_way_of });
    }
}

#[cfg(test)]
mod tests;
