//! `tidegate admin tiers`.

use clap::ValueEnum;
use serde_json::{Value, json};
use tidegate_proto::v1::{
    CreateTierRequest, DegradeMode, DeleteTierRequest, GetTierRequest, ListTiersRequest, ModelBounds, Tier,
    UpdateTierRequest, WindowBounds,
};
use tonic::Response;

use super::Session;
use super::bounds::{self, BoundFlags};
use super::enforcement::OwnEnforcement;
use super::listing::{Listing, PAGE_SIZE};
use super::write::{FinalWriteFlags, WriteAnswer, WriteFlags, mask};
use crate::failure::Failure;
use crate::output::{Rows, print, printable};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  tidegate admin tiers list
  tidegate admin tiers show enterprise
  tidegate admin tiers create gold --prompt-floor 3.6M --prompt-ceiling 9M --law-profile published
  tidegate admin tiers update gold --generated-ceiling 900k --prompt-ceiling inherit
  tidegate admin tiers update gold --enforcement shadow --reason \"new limits, on trial\"
  tidegate admin tiers set-model gold --model large --variant turbo --generated-ceiling 216k
  tidegate admin tiers clear-model gold --model large --variant turbo
  tidegate admin tiers delete gold --reason \"nobody has it\"";

/// Spending tiers: floors and ceilings per window
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TiersArgs {
    #[command(subcommand)]
    pub(super) command: TiersCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum TiersCommand {
    /// List all tiers
    #[command(after_help = EXAMPLES)]
    List,
    /// Show one tier, with its bounds per model
    #[command(after_help = EXAMPLES)]
    Show {
        /// The tier
        name: String,
    },
    /// Create a tier
    #[command(after_help = EXAMPLES)]
    Create {
        /// The tier
        name: String,
        #[command(flatten)]
        fields: TierFields,
    },
    /// Change what the flags name, and nothing else
    #[command(after_help = EXAMPLES)]
    Update {
        /// The tier
        name: String,
        #[command(flatten)]
        fields: TierFields,
    },
    /// Change a tier's bounds on one model and variant
    #[command(after_help = EXAMPLES)]
    SetModel {
        /// The tier
        name: String,
        #[command(flatten)]
        place: ModelPlace,
        #[command(flatten)]
        bounds: BoundFlags,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Drop a tier's bounds on one model and variant
    #[command(after_help = EXAMPLES)]
    ClearModel {
        /// The tier
        name: String,
        #[command(flatten)]
        place: ModelPlace,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Delete a tier that nobody has
    #[command(after_help = EXAMPLES)]
    Delete {
        /// The tier
        name: String,
        #[command(flatten)]
        write: FinalWriteFlags,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct TierFields {
    /// How limits move: default, published or static; "" as the configuration says
    #[arg(long, value_name = "PROFILE")]
    law_profile: Option<String>,
    /// Enforce its accounts' limits, or decide and count alone
    #[arg(long, value_name = "on|shadow|inherit", hide_possible_values = true)]
    enforcement: Option<OwnEnforcement>,
    /// What decides while the store that a fleet shares is away
    #[arg(long, value_name = "share|closed|open|inherit", hide_possible_values = true)]
    degrade: Option<OwnDegrade>,
    #[command(flatten)]
    bounds: BoundFlags,
    #[command(flatten)]
    write: WriteFlags,
}

/// What a tier says for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OwnDegrade {
    /// Each sidecar has its share of every limit
    Share,
    /// Nothing is admitted
    Closed,
    /// Each sidecar has the whole of every limit
    Open,
    /// As the settings of each sidecar say
    Inherit,
}

impl OwnDegrade {
    const fn to_wire(self) -> DegradeMode {
        match self {
            Self::Share => DegradeMode::Share,
            Self::Closed => DegradeMode::Closed,
            Self::Open => DegradeMode::Open,
            Self::Inherit => DegradeMode::Unspecified,
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ModelPlace {
    /// The model
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Its variant; without it, the regular one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    variant: String,
}

const LISTING: Listing<Tier> = Listing {
    columns: &[
        "TIER",
        bounds::COLUMNS[0],
        bounds::COLUMNS[1],
        bounds::COLUMNS[2],
        "PROFILE",
        "ENFORCEMENT",
        "DEGRADE",
        "#MODELS",
        "#REVISION",
    ],
    cells: |tier| {
        let [prompt, uncached, generated] = bounds::cells(tier.bounds.as_ref());
        let (models, revision) = (tier.models.len().to_string(), tier.revision.to_string());
        let (profile, enforcement) = (tier.law_profile.clone(), words::enforcement(tier.enforcement));
        let degrade = words::degrade(tier.degrade);
        vec![tier.name.clone(), prompt, uncached, generated, profile, enforcement, degrade, models, revision]
    },
    json: to_json,
};

/// Runs one command.
pub(super) async fn run(mut session: Session, command: TiersCommand) -> Result<(), Failure> {
    match command {
        TiersCommand::List => {
            let pages = LISTING.print_pages(&mut session, "ListTiers", async |session: &mut Session, page_token| {
                let request = ListTiersRequest { page_size: PAGE_SIZE, page_token };
                let page = session.client.list_tiers(request).await?.into_inner();
                Ok((page.tiers, page.next_page_token))
            });
            pages.await
        }
        TiersCommand::Show { name } => {
            let tier = get(&mut session, name).await?;
            LISTING.print_one(&session, &tier)?;
            if session.json || tier.models.is_empty() {
                return Ok(());
            }
            print(&format!("\n{}", model_rows(&tier.models)))
        }
        TiersCommand::Create { name, fields } => {
            let tier = fields.tier(name);
            let request = CreateTierRequest { tier: Some(tier), options: fields.write.to_wire() };
            let answer = session.client.create_tier(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("CreateTier"))?;
            answer.written(fields.write.dry_run).print(&session, &LISTING, answer.tier.as_ref())
        }
        TiersCommand::Update { name, fields } => {
            let mut paths = fields.bounds.mask_paths();
            paths.extend(fields.law_profile.is_some().then(|| "law_profile".to_owned()));
            paths.extend(fields.enforcement.is_some().then(|| "enforcement".to_owned()));
            paths.extend(fields.degrade.is_some().then(|| "degrade".to_owned()));
            let (options, update_mask) = (fields.write.to_wire(), mask(paths)?);
            update(&mut session, UpdateTierRequest { tier: Some(fields.tier(name)), update_mask, options }).await
        }
        TiersCommand::SetModel { name, place, bounds, write } => {
            if bounds.mask_paths().is_empty() {
                return Err(Failure::Usage("nothing to change: name at least one bound by its flag".to_owned()));
            }
            update_model(&mut session, name, place, &write, |existing| {
                let mut window_bounds = existing.unwrap_or_default();
                bounds.apply_to(&mut window_bounds);
                Some(window_bounds)
            })
            .await
        }
        TiersCommand::ClearModel { name, place, write } => {
            update_model(&mut session, name, place, &write, |_| None).await
        }
        TiersCommand::Delete { name, write } => {
            write.confirm(&format!("Tier {} would be deleted, with all its bounds.", printable(&name)))?;
            let request = DeleteTierRequest { name, options: write.write.to_wire() };
            let answer = session.client.delete_tier(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("DeleteTier"))?;
            answer.written(write.write.dry_run).print(&session, &LISTING, None)
        }
    }
}

/// Reads a tier, replaces its bounds on one place by `replace` of those it has there (`None`: none), and writes it back,
/// unless somebody else wrote it in between.
async fn update_model(
    session: &mut Session,
    name: String,
    place: ModelPlace,
    write: &WriteFlags,
    replace: impl FnOnce(Option<WindowBounds>) -> Option<WindowBounds>,
) -> Result<(), Failure> {
    let mut tier = get(session, name).await?;
    let found = tier.models.iter().position(|bounds| bounds.model == place.model && bounds.variant == place.variant);
    let existing = found.map(|index| tier.models.remove(index));
    match replace(existing.as_ref().and_then(|existing| existing.bounds)) {
        Some(window_bounds) => {
            let ModelPlace { model, variant } = place;
            tier.models.push(ModelBounds { model, variant, bounds: Some(window_bounds) });
        }
        None if existing.is_none() => {
            return Err(Failure::Failed(format!("tier {} has no bounds of its own there", tier.name)));
        }
        None => {}
    }
    let (options, update_mask) = (write.to_wire_at(tier.revision), mask(vec!["models".to_owned()])?);
    update(session, UpdateTierRequest { tier: Some(tier), update_mask, options }).await
}

async fn update(session: &mut Session, request: UpdateTierRequest) -> Result<(), Failure> {
    let dry_run = request.options.as_ref().is_some_and(|options| options.dry_run);
    let answer = session.client.update_tier(request).await;
    let answer = answer.map(Response::into_inner).map_err(session.explain("UpdateTier"))?;
    answer.written(dry_run).print(session, &LISTING, answer.tier.as_ref())
}

async fn get(session: &mut Session, name: String) -> Result<Tier, Failure> {
    let answer = session.client.get_tier(GetTierRequest { name }).await;
    Ok(answer.map_err(session.explain("GetTier"))?.into_inner().tier.unwrap_or_default())
}

impl TierFields {
    fn tier(&self, name: String) -> Tier {
        let law_profile = self.law_profile.clone().unwrap_or_default();
        let enforcement = self.enforcement.map_or(0, |own| own.to_wire().into());
        let degrade = self.degrade.map_or(0, |own| own.to_wire().into());
        Tier { name, bounds: Some(self.bounds.to_wire()), law_profile, enforcement, degrade, ..Tier::default() }
    }
}

fn model_rows(models: &[ModelBounds]) -> Rows {
    let mut rows = Rows::new(&["MODEL", "VARIANT", bounds::COLUMNS[0], bounds::COLUMNS[1], bounds::COLUMNS[2]]);
    for model in models {
        let [prompt, uncached, generated] = bounds::cells(model.bounds.as_ref());
        rows.push([model.model.clone(), model.variant.clone(), prompt, uncached, generated]);
    }
    rows
}

fn to_json(tier: &Tier) -> Value {
    let models = tier.models.iter().map(|model| {
        json!({ "model": model.model, "variant": model.variant, "bounds": bounds::json(model.bounds.as_ref()) })
    });
    json!({
        "name": tier.name,
        "bounds": bounds::json(tier.bounds.as_ref()),
        "models": models.collect::<Vec<_>>(),
        "law_profile": tier.law_profile,
        "enforcement": words::enforcement(tier.enforcement),
        "degrade": words::degrade(tier.degrade),
        "revision": tier.revision,
    })
}
