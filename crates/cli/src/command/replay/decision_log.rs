//! `replay --decisions`: what was asked and answered, one JSON object a line, in the order of the answers.
//!
//! Enough for somebody else to check every decision (contract C1) without trusting the server's own counters. The first
//! line says on which clock the times are; then each line is one call:
//!
//! - every line: `kind` (`reserve`, `progress` or `settle`), `row` (of the trace, from 0), `sent_us` and `received_us` (the
//!   decision was taken between the two; on the test clock they are the same), and `error` where the call failed;
//! - `reserve`: `account`, `model`, `variant`, `prompt_tokens`, `cached_prompt_tokens`, `request_id`; `decision`, `reason`,
//!   `replayed`, `retry_after_us`, `reserved`, `reservation` (its number in this run, from 0; null on a denial), `windows`;
//! - `progress`: `reservation`, `generated_tokens` (a total), `outcome`;
//! - `settle`: `reservation`, `prompt_tokens`, `cached_prompt_tokens`, `generated_tokens`, `outcome`, `clamped`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidegate_proto::v1::{CheckAndReserveResponse, WindowStatus};

use super::agenda::{Step, Stream};
use super::caller::{Answered, Caller, Reply};
use crate::failure::Failure;
use crate::status::code_name;
use crate::words;

/// The file being written.
pub(super) struct DecisionLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl DecisionLog {
    /// Starts the file anew. `test_clock_base_us`: where the trace's time 0 is on the test clock; `None`: real time.
    pub(super) fn create(path: &Path, test_clock_base_us: Option<u64>) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        let mut log = Self { path: path.to_owned(), file: BufWriter::new(file) };
        let clock = if test_clock_base_us.is_some() { "test" } else { "real" };
        let zero = if test_clock_base_us.is_some() { "1970" } else { "start of the replay" };
        log.write(&json!({ "kind": "run", "clock": clock, "zero": zero, "base_us": test_clock_base_us.unwrap_or(0) }))?;
        Ok(log)
    }

    /// Writes one call.
    pub(super) fn on_answer(&mut self, caller: &Caller, answered: &Answered) -> Result<(), Failure> {
        let stream = &answered.call.stream;
        let mut line = match answered.call.step {
            Step::Reserve => json!({
                "kind": "reserve",
                "account": stream.request.account,
                "model": stream.request.model,
                "variant": "",
                "prompt_tokens": stream.request.prompt_tokens,
                "cached_prompt_tokens": stream.request.cached_tokens(),
                "request_id": caller.request_id(stream.row),
            }),
            Step::Progress { generated_tokens } => json!({
                "kind": "progress",
                "reservation": stream.reservation,
                "generated_tokens": generated_tokens,
            }),
            Step::Settle { generated_tokens } => json!({
                "kind": "settle",
                "reservation": stream.reservation,
                "prompt_tokens": stream.request.prompt_tokens,
                "cached_prompt_tokens": stream.request.cached_tokens(),
                "generated_tokens": generated_tokens,
            }),
        };
        line["row"] = stream.row.into();
        line["sent_us"] = answered.sent_us.into();
        line["received_us"] = answered.received_us.into();
        match &answered.reply {
            Ok(Reply::Reserved(answer)) => add_decision(&mut line, stream, answer),
            Ok(Reply::Progressed(answer)) => line["outcome"] = words::outcome(answer.outcome).into(),
            Ok(Reply::Settled(answer)) => {
                line["outcome"] = words::outcome(answer.outcome).into();
                line["clamped"] = answer.clamped.into();
            }
            Err(status) => line["error"] = json!({ "code": code_name(status.code()), "message": status.message() }),
        }
        self.write(&line)
    }

    /// Writes what is still buffered.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|error| self.failed(&error))
    }

    fn write(&mut self, line: &Value) -> Result<(), Failure> {
        writeln!(self.file, "{line}").map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::Failed(format!("{}: {error}", self.path.display()))
    }
}

fn add_decision(line: &mut Value, stream: &Stream, answer: &CheckAndReserveResponse) {
    let admitted = !answer.reservation_id.is_empty();
    line["decision"] = words::decision(answer.decision).into();
    line["reason"] = words::reason(answer.reason).into();
    line["replayed"] = answer.replayed.into();
    let retry_after = answer.retry_after.as_ref().map(words::duration);
    line["retry_after_us"] = retry_after.and_then(|wait| u64::try_from(wait.as_micros()).ok()).into();
    line["reserved"] = answer.reserved.as_ref().map(words::tokens_json).into();
    line["reservation"] = admitted.then_some(stream.reservation).into();
    line["windows"] = answer.windows.iter().map(window).collect();
}

fn window(status: &WindowStatus) -> Value {
    json!({
        "window": words::window(status.window),
        "limit": status.limit_tpm,
        "effective_limit": status.effective_limit_tpm,
        "used": status.used_tokens,
        "held": status.held_tokens,
        "remaining": status.remaining_tokens,
        "binding": status.binding,
    })
}
