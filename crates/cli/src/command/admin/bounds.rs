//! Floors and ceilings per window, as flags and as shown.

use serde_json::{Value, json};
use tidegate_proto::v1::{Bounds, WindowBounds};

use crate::output::grouped;
use tidegate_server::config::amount::parse_tokens;

/// The bounds that a command states. An amount of tokens per minute sets a bound; `inherit` clears it.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Bounds, tokens per minute (such as 3.6M), or `inherit`")]
pub(super) struct BoundFlags {
    /// Floor of all prompt tokens
    #[arg(long, value_name = "TPM", value_parser = parse_bound)]
    prompt_floor: Option<Bound>,

    /// Ceiling of all prompt tokens
    #[arg(long, value_name = "TPM", value_parser = parse_bound)]
    prompt_ceiling: Option<Bound>,

    /// Floor of uncached prompt tokens
    #[arg(long, value_name = "TPM", value_parser = parse_bound)]
    uncached_prompt_floor: Option<Bound>,

    /// Ceiling of uncached prompt tokens
    #[arg(long, value_name = "TPM", value_parser = parse_bound)]
    uncached_prompt_ceiling: Option<Bound>,

    /// Floor of generated tokens
    #[arg(long, value_name = "TPM", value_parser = parse_bound)]
    generated_floor: Option<Bound>,

    /// Ceiling of generated tokens
    #[arg(long, value_name = "TPM", value_parser = parse_bound)]
    generated_ceiling: Option<Bound>,
}

/// What one flag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Tpm(u64),
    Inherit,
}

impl BoundFlags {
    /// The bounds as the wire wants them; what no flag names is unset.
    pub(super) fn to_wire(&self) -> WindowBounds {
        let pair = |floor: Option<Bound>, ceiling: Option<Bound>| {
            let tpm = |bound| match bound {
                Some(Bound::Tpm(tpm)) => Some(tpm),
                Some(Bound::Inherit) | None => None,
            };
            let (floor_tpm, ceiling_tpm) = (tpm(floor), tpm(ceiling));
            (floor_tpm.is_some() || ceiling_tpm.is_some()).then_some(Bounds { floor_tpm, ceiling_tpm })
        };
        WindowBounds {
            prompt: pair(self.prompt_floor, self.prompt_ceiling),
            uncached_prompt: pair(self.uncached_prompt_floor, self.uncached_prompt_ceiling),
            generated: pair(self.generated_floor, self.generated_ceiling),
        }
    }

    /// The update mask's paths of the bounds that flags name, set or cleared.
    pub(super) fn mask_paths(&self) -> Vec<String> {
        self.each().into_iter().filter(|(_, bound)| bound.is_some()).map(|(path, _)| path.to_owned()).collect()
    }

    /// Puts the bounds that flags name into `bounds`, and leaves the others.
    pub(super) fn apply_to(&self, bounds: &mut WindowBounds) {
        let windows = [&mut bounds.prompt, &mut bounds.uncached_prompt, &mut bounds.generated];
        let flags = [
            (self.prompt_floor, self.prompt_ceiling),
            (self.uncached_prompt_floor, self.uncached_prompt_ceiling),
            (self.generated_floor, self.generated_ceiling),
        ];
        for (window, (floor, ceiling)) in windows.into_iter().zip(flags) {
            let mut pair = window.unwrap_or_default();
            for (side, flag) in [(&mut pair.floor_tpm, floor), (&mut pair.ceiling_tpm, ceiling)] {
                match flag {
                    Some(Bound::Tpm(tpm)) => *side = Some(tpm),
                    Some(Bound::Inherit) => *side = None,
                    None => {}
                }
            }
            *window = (pair != Bounds::default()).then_some(pair);
        }
    }

    fn each(&self) -> [(&'static str, Option<Bound>); 6] {
        [
            ("bounds.prompt.floor_tpm", self.prompt_floor),
            ("bounds.prompt.ceiling_tpm", self.prompt_ceiling),
            ("bounds.uncached_prompt.floor_tpm", self.uncached_prompt_floor),
            ("bounds.uncached_prompt.ceiling_tpm", self.uncached_prompt_ceiling),
            ("bounds.generated.floor_tpm", self.generated_floor),
            ("bounds.generated.ceiling_tpm", self.generated_ceiling),
        ]
    }
}

/// The columns that [`cells`] fills.
pub(super) const COLUMNS: [&str; 3] = ["#PROMPT TPM", "#UNCACHED PROMPT TPM", "#GENERATED TPM"];

/// One cell per window: `floor .. ceiling`, with `-` for an inherited bound.
pub(super) fn cells(bounds: Option<&WindowBounds>) -> [String; 3] {
    windows(bounds).map(|(_, window)| {
        let side = |tpm: Option<u64>| tpm.map_or_else(|| "-".to_owned(), grouped);
        let bounds = window.copied().unwrap_or_default();
        format!("{} .. {}", side(bounds.floor_tpm), side(bounds.ceiling_tpm))
    })
}

/// The bounds with the names of the wire; null is inherited.
pub(super) fn json(bounds: Option<&WindowBounds>) -> Value {
    let window = |window: Option<&Bounds>| {
        let bounds = window.copied().unwrap_or_default();
        json!({ "floor_tpm": bounds.floor_tpm, "ceiling_tpm": bounds.ceiling_tpm })
    };
    windows(bounds)
        .into_iter()
        .map(|(name, bounds)| (name.to_owned(), window(bounds)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn windows(bounds: Option<&WindowBounds>) -> [(&'static str, Option<&Bounds>); 3] {
    [
        ("prompt", bounds.and_then(|bounds| bounds.prompt.as_ref())),
        ("uncached_prompt", bounds.and_then(|bounds| bounds.uncached_prompt.as_ref())),
        ("generated", bounds.and_then(|bounds| bounds.generated.as_ref())),
    ]
}

fn parse_bound(text: &str) -> Result<Bound, String> {
    if text == "inherit" {
        return Ok(Bound::Inherit);
    }
    parse_tokens(text).map(Bound::Tpm).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_set_clear_and_leave() {
        let flags = BoundFlags {
            prompt_floor: Some(Bound::Tpm(5)),
            prompt_ceiling: Some(Bound::Inherit),
            generated_ceiling: Some(Bound::Inherit),
            ..BoundFlags::default()
        };
        let prompt = Some(Bounds { floor_tpm: Some(5), ceiling_tpm: None });
        assert_eq!(flags.to_wire(), WindowBounds { prompt, ..WindowBounds::default() });
        let paths = ["bounds.prompt.floor_tpm", "bounds.prompt.ceiling_tpm", "bounds.generated.ceiling_tpm"];
        assert_eq!(flags.mask_paths(), paths);

        let uncached_prompt = Some(Bounds { floor_tpm: Some(1), ceiling_tpm: None });
        let mut bounds = WindowBounds {
            prompt: Some(Bounds { floor_tpm: None, ceiling_tpm: Some(9) }),
            uncached_prompt,
            generated: Some(Bounds { floor_tpm: None, ceiling_tpm: Some(9) }),
        };
        flags.apply_to(&mut bounds);
        assert_eq!(bounds, WindowBounds { prompt, uncached_prompt, generated: None });
    }

    #[test]
    fn bounds_are_amounts_or_inherit() {
        assert_eq!(parse_bound("3.6M"), Ok(Bound::Tpm(3_600_000)));
        assert_eq!(parse_bound("inherit"), Ok(Bound::Inherit));
        assert!(parse_bound("none").is_err());
        let prompt = Some(Bounds { floor_tpm: Some(3_600_000), ceiling_tpm: None });
        let bounds = WindowBounds { prompt, ..WindowBounds::default() };
        assert_eq!(cells(Some(&bounds)), ["3,600,000 .. -", "- .. -", "- .. -"]);
    }
}
