//! When a program is ready.
