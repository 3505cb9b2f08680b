//! The `tidegate` binary. See [`tidegate_cli`].
fn main() -> std::process::ExitCode {
    tidegate_cli::main()
}
