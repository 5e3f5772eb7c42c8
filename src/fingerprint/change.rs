//! What is different between two fingerprints, in words.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::Input;

/// One difference between two fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Change {
    /// An input has another value now.
    Changed {
        /// The input's label.
        label: String,
        /// The value as it was shown then.
        from: String,
        /// The value as it is shown now.
        to: String,
    },
    /// There was no such input before.
    Added {
        /// The input's label.
        label: String,
        /// Its value as shown.
        to: String,
    },
    /// There is no such input any more.
    Removed {
        /// The input's label.
        label: String,
        /// Its value as shown.
        from: String,
    },
}

impl Change {
    /// Returns the label of the input.
    pub fn label(&self) -> &str {
        match self {
            Self::Changed { label, .. }
            | Self::Added { label, .. }
            | Self::Removed { label, .. } => label,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Digests and sizes say nothing to people.
            Self::Changed { label, from, to } if from == to || is_opaque(label) => {
                write!(f, "{label} changed")
            }
            Self::Changed { label, from, to } => {
                write!(f, "{label} changed from `{from}` to `{to}`")
            }
            Self::Added { label, to } if label.starts_with("argument ") => {
                write!(f, "{label} added: `{to}`")
            }
            Self::Added { label, .. } => write!(f, "{label} added"),
            Self::Removed { label, .. } => write!(f, "{label} removed"),
        }
    }
}

/// Tells whether the shown value of an input is not the value itself.
fn is_opaque(label: &str) -> bool {
    label.contains(" /") && !label.starts_with("target of ")
        || label.starts_with("environment variable ")
        || matches!(label, "vDSO" | "CPU features")
}

/// Lists what is different, in the order of the new inputs, removed ones last.
pub fn explain(old: &[Input], new: &[Input]) -> Vec<Change> {
    let mut before: HashMap<&str, &Input> =
        old.iter().map(|input| (input.label.as_str(), input)).collect();
    let mut changes = Vec::new();
    for input in new {
        let (label, to) = (input.label.clone(), input.shown.clone());
        match before.remove(input.label.as_str()) {
            None => changes.push(Change::Added { label, to }),
            Some(old) if old.digest != input.digest => {
                changes.push(Change::Changed { label, from: old.shown.clone(), to });
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|input| before.contains_key(input.label.as_str()));
    changes.extend(
        gone.map(|input| Change::Removed { label: input.label.clone(), from: input.shown.clone() }),
    );
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Digest;

    fn input(label: &str, value: &str) -> Input {
        Input {
            label: label.to_owned(),
            digest: Digest::of(value.as_bytes()),
            shown: value.to_owned(),
        }
    }

    #[test]
    fn changes_are_named_in_one_line_each() {
        let old = [
            input("jar /x/app.jar", "10 bytes"),
            input("argument 1", "-v"),
            input("environment variable FOO", "3 bytes"),
            input("environment variable BAR", "4 bytes"),
            input("kernel", "Linux 6.1"),
        ];
        let mut new = [
            input("jar /x/app.jar", "12 bytes"),
            input("argument 1", "-q"),
            input("argument 2", "x"),
            input("environment variable FOO", "3 bytes"),
            input("environment variable NEW", "3 bytes"),
            input("kernel", "Linux 6.1"),
        ];
        new[3].digest = Digest::of(b"same length");
        let lines: Vec<String> = explain(&old, &new).iter().map(Change::to_string).collect();
        assert_eq!(
            lines,
            [
                "jar /x/app.jar changed",
                "argument 1 changed from `-v` to `-q`",
                "argument 2 added: `x`",
                "environment variable FOO changed",
                "environment variable NEW added",
                "environment variable BAR removed",
            ]
        );
        assert!(explain(&new, &new).is_empty());
    }
}
