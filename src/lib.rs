//! warmstart makes slow-starting programs start in milliseconds.
//!
//! A tour, in the order in which a run passes through the modules:
//! [`cli`] reads the command line; [`launcher`] asks [`fingerprint`] for the
//! key of the command and [`cache`] for an entry under it. On a hit,
//! [`restore`] executes the entry's plan in a process with the pids that it
//! had; on a miss the launcher starts the program cold, [`readiness`]
//! says when it is ready, and [`snapshot`] freezes it through [`trace`] and
//! writes an [`image`] and a plan. [`sys`] holds every system call and is the
//! only module with unsafe code.

pub mod bench;
pub mod cache;
pub mod cli;
pub mod command;
pub mod criu;
pub mod doctor;
pub mod failure;
pub mod fingerprint;
pub mod image;
pub mod jvm;
pub mod launcher;
pub mod pids;
pub mod privilege;
pub mod readiness;
pub mod restore;
pub mod snapshot;
pub mod sys;
pub mod trace;
pub mod ui;
