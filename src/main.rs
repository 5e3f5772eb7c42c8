//! The `warmstart` command: everything is in the library.

fn main() -> std::process::ExitCode {
    warmstart::cli::main()
}
