//! Asking before what cannot be undone.
//!
//! Only a person at a terminal is asked. A script says `--yes`; without it, it is told so rather than left waiting for an
//! answer that nobody types.

use std::io::{self, BufRead, IsTerminal as _, Write};

use crate::failure::Failure;

/// Whether to ask first.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct ConfirmFlags {
    /// Do not ask for confirmation
    #[arg(long, short = 'y')]
    yes: bool,
}

impl ConfirmFlags {
    /// Returns once the caller has agreed: by `--yes`, or by `y` or `yes` at the terminal. `consequence` says what would
    /// happen, as a whole sentence.
    ///
    /// # Errors
    /// [`Failure::Usage`] where standard input is no terminal, [`Failure::Failed`] where the answer is another one, or none.
    pub(crate) fn confirm(self, consequence: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let stdin = io::stdin();
        let terminal = stdin.is_terminal();
        ask(consequence, terminal.then(|| stdin.lock()), io::stderr())
    }
}

/// Asks at `terminal`, in words written to `out`; `None`: nobody is there.
fn ask(consequence: &str, terminal: Option<impl BufRead>, mut out: impl Write) -> Result<(), Failure> {
    let Some(mut terminal) = terminal else {
        return Err(Failure::Usage(format!("{consequence} Without a terminal to confirm it, add --yes.")));
    };
    let mut answer = String::new();
    let asked = write!(out, "{consequence} Go on? [y/N] ").and_then(|()| out.flush());
    asked
        .and_then(|()| terminal.read_line(&mut answer))
        .map_err(|error| Failure::Failed(format!("terminal: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Failed("not confirmed: nothing was changed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSEQUENCE: &str = "Nobody is denied any more.";

    #[test]
    fn only_a_yes_goes_on_and_the_question_says_what_happens() {
        for (answer, goes_on) in
            [("y\n", true), (" Yes \n", true), ("n\n", false), ("\n", false), ("", false), ("yesterday\n", false)]
        {
            let mut shown = Vec::new();
            let end = ask(CONSEQUENCE, Some(answer.as_bytes()), &mut shown);
            assert_eq!(end.is_ok(), goes_on, "{answer:?}");
            assert_eq!(String::from_utf8_lossy(&shown), "Nobody is denied any more. Go on? [y/N] ");
        }
    }

    #[test]
    fn without_a_terminal_it_says_what_to_write() {
        let end = ask(CONSEQUENCE, None::<&[u8]>, io::sink());
        let Err(Failure::Usage(text)) = end else { panic!("wrong usage, not {end:?}") };
        assert!(text.starts_with(CONSEQUENCE) && text.ends_with("add --yes."), "{text}");
        assert_eq!(ConfirmFlags { yes: true }.confirm(CONSEQUENCE), Ok(()));
    }
}
