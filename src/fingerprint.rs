//! The app hash.
