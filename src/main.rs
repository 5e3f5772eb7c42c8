//! The `warmstart` command: everything is in the library.
#![no_main]

#[global_allocator]
static ALLOCATOR: warmstart::sys::arena::Arena = warmstart::sys::arena::Arena;

warmstart::program!(warmstart::cli::main);
