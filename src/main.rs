//! The `warmstart` command: everything is in the library.

#[global_allocator]
static ALLOCATOR: warmstart::sys::arena::Arena = warmstart::sys::arena::Arena;

fn main() -> std::process::ExitCode {
    warmstart::cli::main()
}
