//! `tidegate admin models`.

use serde_json::{Value, json};
use tidegate_proto::v1::{
    CreateModelRequest, DeleteModelRequest, GetModelRequest, ListModelsRequest, Model, UpdateModelRequest,
};
use tonic::Response;

use super::Session;
use super::bounds::{self, BoundFlags};
use super::listing::{Listing, PAGE_SIZE};
use super::write::{FinalWriteFlags, WriteAnswer, WriteFlags, mask};
use crate::failure::Failure;
use crate::output::printable;

const EXAMPLES: &str = "\
Examples:
  tidegate admin models list
  tidegate admin models show large --variant turbo
  tidegate admin models create large --prompt-ceiling 21.6M --generated-ceiling 216k
  tidegate admin models update large --law-profile static
  tidegate admin models delete large --variant turbo";

/// Models: bounds and law profile of a (model, variant) for every account
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    pub(super) command: ModelsCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum ModelsCommand {
    /// List the configured models
    #[command(after_help = EXAMPLES)]
    List,
    /// Show one model
    #[command(after_help = EXAMPLES)]
    Show {
        #[command(flatten)]
        place: ModelPlace,
    },
    /// Create a model's policy
    #[command(after_help = EXAMPLES)]
    Create {
        #[command(flatten)]
        place: ModelPlace,
        #[command(flatten)]
        fields: ModelFields,
    },
    /// Change what the flags name, and nothing else
    #[command(after_help = EXAMPLES)]
    Update {
        #[command(flatten)]
        place: ModelPlace,
        #[command(flatten)]
        fields: ModelFields,
    },
    /// Delete a model's policy; afterwards its traffic has the tiers' bounds alone
    #[command(after_help = EXAMPLES)]
    Delete {
        #[command(flatten)]
        place: ModelPlace,
        #[command(flatten)]
        write: FinalWriteFlags,
    },
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ModelPlace {
    /// The model
    name: String,
    /// Its variant; without it, the regular one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    variant: String,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ModelFields {
    /// How limits move: default, published or static; "" as the tier says
    #[arg(long, value_name = "PROFILE")]
    law_profile: Option<String>,
    #[command(flatten)]
    bounds: BoundFlags,
    #[command(flatten)]
    write: WriteFlags,
}

const LISTING: Listing<Model> = Listing {
    columns: &["MODEL", "VARIANT", bounds::COLUMNS[0], bounds::COLUMNS[1], bounds::COLUMNS[2], "PROFILE", "#REVISION"],
    cells: |model| {
        let [prompt, uncached, generated] = bounds::cells(model.bounds.as_ref());
        let (name, variant, profile) = (model.name.clone(), model.variant.clone(), model.law_profile.clone());
        vec![name, variant, prompt, uncached, generated, profile, model.revision.to_string()]
    },
    json: to_json,
};

/// Runs one command.
pub(super) async fn run(mut session: Session, command: ModelsCommand) -> Result<(), Failure> {
    match command {
        ModelsCommand::List => {
            let pages = LISTING.print_pages(&mut session, "ListModels", async |session: &mut Session, page_token| {
                let request = ListModelsRequest { page_size: PAGE_SIZE, page_token };
                let page = session.client.list_models(request).await?.into_inner();
                Ok((page.models, page.next_page_token))
            });
            pages.await
        }
        ModelsCommand::Show { place: ModelPlace { name, variant } } => {
            let answer = session.client.get_model(GetModelRequest { name, variant }).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("GetModel"))?;
            LISTING.print_one(&session, &answer.model.unwrap_or_default())
        }
        ModelsCommand::Create { place, fields } => {
            let request = CreateModelRequest { model: Some(fields.model(place)), options: fields.write.to_wire() };
            let answer = session.client.create_model(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("CreateModel"))?;
            answer.written(fields.write.dry_run).print(&session, &LISTING, answer.model.as_ref())
        }
        ModelsCommand::Update { place, fields } => {
            let mut paths = fields.bounds.mask_paths();
            paths.extend(fields.law_profile.is_some().then(|| "law_profile".to_owned()));
            let (options, update_mask) = (fields.write.to_wire(), mask(paths)?);
            let request = UpdateModelRequest { model: Some(fields.model(place)), update_mask, options };
            let answer = session.client.update_model(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("UpdateModel"))?;
            answer.written(fields.write.dry_run).print(&session, &LISTING, answer.model.as_ref())
        }
        ModelsCommand::Delete { place: ModelPlace { name, variant }, write } => {
            let title = if variant.is_empty() { name.clone() } else { format!("{name} {variant}") };
            write.confirm(&format!(
                "The policy of model {} would be deleted: it would have the tiers' bounds alone.",
                printable(&title)
            ))?;
            let request = DeleteModelRequest { name, variant, options: write.write.to_wire() };
            let answer = session.client.delete_model(request).await;
            let answer = answer.map(Response::into_inner).map_err(session.explain("DeleteModel"))?;
            answer.written(write.write.dry_run).print(&session, &LISTING, None)
        }
    }
}

impl ModelFields {
    fn model(&self, ModelPlace { name, variant }: ModelPlace) -> Model {
        let law_profile = self.law_profile.clone().unwrap_or_default();
        Model { name, variant, bounds: Some(self.bounds.to_wire()), law_profile, revision: 0 }
    }
}

fn to_json(model: &Model) -> Value {
    json!({
        "name": model.name,
        "variant": model.variant,
        "bounds": bounds::json(model.bounds.as_ref()),
        "law_profile": model.law_profile,
        "revision": model.revision,
    })
}
